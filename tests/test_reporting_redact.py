import pytest

from imgnet_mini.reporting.redact import join_command, last_component, redact_command


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/bob/sets/mini", "mini"),
        ("/home/bob/sets/mini/", "mini"),
        (r"C:\Users\bob\mini", "mini"),
        (r"\\host\share\mini", "mini"),
        ("data/mini", "mini"),
        ("mini", "mini"),
        (".", "."),
        ("/", "."),
    ],
)
def test_only_the_last_component_of_a_path_is_kept(path, name):
    assert last_component(path) == name


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            ["/home/bob/bin/imgnet-mini", "train", "--data-root", "/home/bob/mini"],
            "imgnet-mini train --data-root mini",
        ),
        (
            ["imgnet-mini", "train", "--data-root=/home/bob/mini"],
            "imgnet-mini train --data-root=mini",
        ),
        ([r"C:\Users\bob\Scripts\imgnet-mini.exe", "train"], "imgnet-mini train"),
        (
            ["imgnet-mini", "train", "--data-root", r"C:\Users\bob\m"],
            "imgnet-mini train --data-root m",
        ),
        (["imgnet-mini", "train", "--data-root", "~bob/m"], "imgnet-mini train --data-root m"),
        (["imgnet-mini", "train", "--data-root", "../../bob/m"], "imgnet-mini train --data-root m"),
        (["imgnet-mini", "train", "--data-root", "data/m"], "imgnet-mini train --data-root data/m"),
        (["/home/bob/lib/imgnet_mini/__main__.py", "train"], "python -m imgnet_mini train"),
        ([], None),
    ],
)
def test_a_redacted_command_does_not_identify_the_machine(command, shown):
    assert join_command(redact_command(command)) == shown


@pytest.mark.parametrize("home", ["/home/bob", "/home/bob/", r"C:\Users\bob"])
def test_the_home_folder_is_shown_without_the_name_of_its_user(monkeypatch, home):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, home)
    assert last_component(home) == "~"
    assert last_component(f"{home}/mini") == "mini"
    assert (
        join_command(redact_command(["imgnet-mini", "--data-root", home]))
        == "imgnet-mini --data-root '~'"
    )
