import json
import re
import time
from pathlib import Path

import pytest

from imgnet_mini.commands.bench import Throughput, explain_limit
from imgnet_mini.data.transforms import TrainCrop

SMALL = (
    *("--data-root", "data", "--arch", "shufflenet_v2_x0_5", "--img-size", 32),
    *("--batch-size", 6, "--workers", 0, "--seconds", 1),
)


@pytest.mark.parametrize(
    ("rates", "on_cpu", "limit", "words"),
    [
        (Throughput(5000, 800, 790), False, "computing", "network is the limit: loading costs 1%"),
        (Throughput(5000, 800, 810), True, "computing", "network is the limit: loading costs 0%"),
        (Throughput(300, 800, 290), False, "loading", "300 images/s.*process 800.*64%"),
        (Throughput(60, 100, 40), True, "loading", "Loading is the limit"),
        (Throughput(900, 100, 80), True, "both", "share the CPU; loading takes 20%"),
        (Throughput(900, 800, 600), False, "both", "fast enough.*costs 25%"),
    ],
)
def test_the_limit_is_told_in_a_sentence(rates, on_cpu, limit, words):
    found, sentence = explain_limit(rates, on_cpu=on_cpu)
    assert found == limit
    assert re.search(words, sentence)
    assert sentence.endswith(".")


@pytest.mark.timing
def test_json_alone_is_printed_with_rates_and_trials(data, cli):
    assert cli("bench", *SMALL, "--seconds", 12, "--json") == 0, cli.err
    found = json.loads(cli.out)
    rates = found["rates"]
    assert all(rates[name] > 0 for name in ("loading", "computing", "training"))
    assert found["epoch_seconds"] == pytest.approx(24 / rates["training"])
    assert found["settings"]["data"]["batch_size"] == 6
    trials = {trial["setting"]: trial for trial in found["trials"]}
    pack = trials["imgnet-mini prepare"]
    assert pack["ratio"] > 0
    assert "kB" in pack["note"]
    assert trials["--batch-size 12"]["images_per_second"] > 0
    assert trials["--compile"]["ratio"] is None


@pytest.mark.timing
def test_loading_that_holds_the_network_back_is_named_and_the_pack_lifts_it(data, cli, monkeypatch):
    load = TrainCrop.load

    def load_slowly(self, *args):
        time.sleep(0.05)
        return load(self, *args)

    monkeypatch.setattr(TrainCrop, "load", load_slowly)
    assert cli("bench", *SMALL, "--seconds", 20, "--json") == 0, cli.err
    found = json.loads(cli.out)
    assert found["limit"] == "loading"
    best = max(found["trials"], key=lambda trial: trial["ratio"] or 0)
    assert best["setting"] == "imgnet-mini prepare"
    assert best["ratio"] > 1.5


def test_a_person_reads_tables_and_nothing_is_left_behind(data, cli):
    before = set(Path().rglob("*"))
    assert cli("bench", *SMALL) == 0, cli.err
    for words in ("loading alone", "both together", "Training time of an epoch", "not tried"):
        assert words in cli.out
    assert set(Path().rglob("*")) == before


def test_on_a_pack_no_pack_is_proposed(data, cli):
    assert cli("prepare", "--data-root", "data", "--img-size", 32) == 0, cli.err
    assert cli("bench", *SMALL, "--json") == 0, cli.err
    found = json.loads(cli.out)
    assert found["environment"]["loader"].startswith("pack of")
    assert "imgnet-mini prepare" not in {trial["setting"] for trial in found["trials"]}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--data-root", "nowhere"], 4),
        (["--batch-size", 25], 2),
        (["--seconds", 0], 2),
        (["--loader", "pack"], 4),
    ],
)
def test_what_cannot_be_measured_is_refused(data, cli, options, code):
    assert cli("bench", *SMALL, *options) == code
