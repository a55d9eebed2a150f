from rich.console import Console

from imgnet_mini.utils import progress
from imgnet_mini.utils.progress import progress_bar


def test_a_pipe_gets_nothing(capsys):
    with progress_bar("train", 10, done=2) as bar:
        bar.show(5, "loss 1.0")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_figures_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def terminal(**settings):
        return Console(**settings, force_terminal=True)

    monkeypatch.setattr(progress, "Console", terminal)
    with progress_bar("[train]", 10) as bar:
        bar.show(10, "[loss] 1.0")
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("[train]", "10/10", "[loss] 1.0"):
        assert text in err
