from importlib.resources import files

from torchvision.models import ResNet50_Weights

from imgnet_mini.data.classes import display_names, human_names, imagenet_classes

IDS = files("imgnet_mini.data").joinpath("imagenet_wnids.txt").read_text("utf-8").split()


def test_there_are_a_thousand_different_ids_in_order():
    assert len(set(IDS)) == 1000
    assert sorted(IDS) == IDS
    assert all(name[0] == "n" and len(name) == 9 and name[1:].isdigit() for name in IDS)


def test_every_id_has_the_name_that_torchvision_gives_its_output():
    categories = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    expected = [f"{name} ({word})" for name, word in zip(IDS, categories, strict=True)]
    assert display_names(IDS) == expected


def test_well_known_ids_have_their_names():
    known = {
        "n01440764": "tench",
        "n02123045": "tabby",
        "n02099601": "golden retriever",
        "n03445777": "golf ball",
        "n15075141": "toilet tissue",
    }
    assert display_names(known) == [f"{name} ({word})" for name, word in known.items()]


def test_a_human_name_comes_without_its_id():
    assert human_names(["n01440764", "cat"]) == ["tench", "cat"]


def test_imagenets_classes_are_in_the_order_of_torchvisions_outputs():
    assert list(imagenet_classes()) == IDS


def test_other_names_stay_as_they_are_and_in_place():
    names = ["cat", "n99999999", "n01440764 ", "", "n01440764"]
    assert display_names(names) == [*names[:4], "n01440764 (tench)"]
