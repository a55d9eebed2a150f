"""What TensorBoard would show of a run."""

from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import metadata

ALL = {"scalars": 0, "images": 0, "tensors": 0}


@dataclass
class Shown:
    """All that is in the event files of a folder, by tag: pairs of step and value.

    kinds: of the tags that TensorBoard lists.
    """

    scalars: dict[str, list[tuple[int, float]]]
    pictures: dict[str, list[tuple[int, bytes]]]
    texts: dict[str, list[tuple[int, str]]]
    hparams: dict[str, list[tuple[int, object]]]
    kinds: set[str]


def read_events(folder: Path | str) -> Shown:
    events = EventAccumulator(str(folder), size_guidance=ALL).Reload()
    tags = events.Tags()
    return Shown(
        {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]},
        {
            tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)]
            for tag in tags["images"]
        },
        {
            tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)]
            for tag in tags["tensors"]
        },
        read_hparams(folder),
        {kind for kind, found in tags.items() if found},
    )


def read_hparams(folder: Path | str) -> dict[str, list[tuple[int, object]]]:
    """What the plugin's events hold: the experiment, the settings of the session, and its end."""
    parsers = {
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }
    found: dict[str, list[tuple[int, object]]] = {}
    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag in parsers:
                    content = parsers[value.tag](value.metadata.plugin_data.content)
                    found.setdefault(value.tag, []).append((event.step, content))
    return found
