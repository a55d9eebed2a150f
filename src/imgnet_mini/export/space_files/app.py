"""Web page that shows the most likely classes of an image."""

import html
from pathlib import Path
from typing import Any, Final

import gradio as gr

from imgnet_mini.export.space_files.classifier import Classifier, ImageError

FOLDER: Final = Path(__file__).parent
EXAMPLES: Final = [str(path) for path in sorted((FOLDER / "examples").glob("*.jpg"))]
TOP_K: Final = 5
MAX_FILE_SIZE: Final = "50mb"
HOUR: Final = 3600  # seconds

classifier = Classifier(FOLDER / "model.onnx")


def classify(image: dict[str, Any] | None) -> dict[str, float] | None:
    """Return the most likely classes of an uploaded image; None without one."""
    if image is None:
        return None
    if image["path"] is None:  # an address with the data itself
        raise gr.Error("Upload the image as a file.", print_exception=False)
    try:
        return classifier.classify(Path(image["path"]), TOP_K)
    except ImageError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from None


with gr.Blocks(
    title="Image classifier",
    analytics_enabled=False,
    delete_cache=(HOUR, HOUR),  # uploaded images
) as demo:
    gr.Markdown(
        f"# Image classifier\n{classifier.arch} that tells {len(classifier.labels)} classes "
        "apart. Choose an image to see its most likely classes."
    )
    with gr.Row():
        chosen = gr.Image(label="Image", type="filepath", image_mode=None, height=360)
        classes = gr.Label(label="Most likely classes", num_top_classes=TOP_K)
    # Without Gradio's preprocessing, which rotates images and drops their transparency: the file
    # is decoded as in training.
    chosen.change(classify, chosen, classes, preprocess=False, api_name="classify")
    if EXAMPLES:
        gr.Examples(EXAMPLES, chosen, label="Examples")

if __name__ == "__main__":
    demo.launch(max_file_size=MAX_FILE_SIZE)
