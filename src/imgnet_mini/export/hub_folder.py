"""The files of a folder for the Hugging Face Hub: weights, configuration, model card, curves."""

from dataclasses import replace
from pathlib import Path

from imgnet_mini.export.formats import HUB, to_json
from imgnet_mini.export.hub import (
    CARD,
    CONFIG,
    CURVES,
    WEIGHTS,
    describe_for_timm,
    has_timm,
    read_with_timm,
)
from imgnet_mini.export.parity import ParityResult, compare
from imgnet_mini.export.writer import Exportable, check_parity, write_checked
from imgnet_mini.reporting.curves import draw_curves
from imgnet_mini.reporting.readme.card import ModelCard
from imgnet_mini.utils.atomic_file import atomic_folder, write_text


def write_hub_folder(folder: Path, model: Exportable, card: ModelCard) -> tuple[ParityResult, str]:
    """Write a folder, compare it with the network, and name the library that loaded it for that.

    Other files in an existing folder stay.

    Raises:
        ExportError: the exported model does not match; the folder is unchanged.
        WriteError: a file cannot be written.
    """
    with atomic_folder(folder) as temporary:
        parity = write_checked(HUB, model, temporary / WEIGHTS)
        checked_with = "torchvision"
        config = model.description
        if card.in_timm:
            config = describe_for_timm(model.description, license_id=card.license_id)
        write_text(temporary / CONFIG, to_json(config))
        if card.in_timm and has_timm():
            parity = check_parity(compare(model.module, read_with_timm(temporary), model.images))
            checked_with = "timm"
        if card.run is not None:
            draw_curves(card.run.records, temporary)
            pictures = {Path(name).stem: name for name in CURVES}
            card = replace(card, run=replace(card.run, pictures=pictures, files={}))
        write_text(temporary / CARD, card.render())
    return parity, checked_with
