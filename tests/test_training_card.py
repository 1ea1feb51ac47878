"""The model card says what the log of the training says, and nothing else."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def card():
    path = Path(__file__).parents[1] / "scripts" / "model_card.py"
    spec = importlib.util.spec_from_file_location("model_card", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure(accuracy, **recalls):
    """Of as many classes as there are recalls, each with one more face than the last."""
    classes = {
        name: {"n": 50 + i, "recall": recall, "predicted": 7 + i} for i, (name, recall) in enumerate(recalls.items())
    }
    return {"accuracy": accuracy, "n": sum(row["n"] for row in classes.values()), "classes": classes}


@pytest.fixture
def log():
    """Every aim is reached, by figures that are all different."""
    bands = ("female", "male", "0-2 years", "25-37 years", "0-14 years", "15+ years", "black", "other")
    groups = {
        name: {"n": 30 + i, "gender": 0.9111 + i / 1000, "age": 0.5111 + i / 1000, "ethnicity": 0.8111 + i / 1000,
               "mean error in years": 5 + i / 10}
        for i, name in enumerate(bands)
    }  # fmt: skip
    groups["other"]["ethnicity"] = None
    return {
        "version": "7",
        "parameters": 1234567,
        "faces": {name: {"training": 1000 + i, "held out": 5} for i, name in enumerate(("utkface", "lfw", "ferplus"))},
        "training": {
            "steps": 4321, "images": 98765, "people": 321, "minutes": 61.5, "threads": 2,
            "processes": 1, "device": "cpu", "recipe": {"least_images": 4}, "origin": {"start": "random"},
            "log": [{"step": 50, "size": 112}, {"step": 100, "size": 224}],
        },
        "gender on utkface": figure(0.9168, female=0.9, male=0.85),
        "age on utkface": figure(0.5632, **{"0-2": 0.95, "3": 0.0, "4-6": 0.45})
        | {"within one bin": 0.7531, "mean error in years": 6.54},
        "ethnicity on utkface": figure(0.8323, black=0.61, white=0.9, hispanic=None),
        "groups on utkface": groups,
        "emotion on ferplus": figure(0.6543, happy=0.81, scared=0.0, sad=0.123),
        "gender on lfw": figure(0.9012, female=0.8, male=0.95),
        "emotion on lfw": figure(0.7890, happy=0.9),
        "verification on lfw": {"accuracy": 0.8246, "n": 1200, "area under curve": 0.91234, "threshold": 0.34567},
    }  # fmt: skip


def flat(text):
    return " ".join(text.split())


def test_the_figures_are_those_of_the_log(card, log):
    log["ethnicity on utkface"]["classes"]["hispanic"] |= {"n": 0, "predicted": 0}
    text = flat(card.model_card(log))
    for row in (
        "| gender | UTKFace, held out | 101 | 91.7 % | 50.5 % |",
        "| gender | LFW, held-out people, label by first name | 101 | 90.1 % | 50.5 % |",
        "| age, 14 bins | UTKFace, held out | 153 | 56.3 % (75.3 % within one bin) | 34.0 % |",
        "| 1200 | 82.5 % (area under curve 0.912) | 50.0 % |",
        "| UTKFace, part 1, aligned | 1,000 |",
        "folds 1-5 | 1,001 | person (321 people with 4 or more pictures",
        "| FER+, training split | 1,002 |",
        "| male | 31 | 91.2 % | 51.2 % | 5.1 | 81.2 % |",
        "| other | 37 | 91.8 % | 51.8 % | 5.7 | – |",
        "| scared | 51 | 0.0 % | 8 |",
        "| 4-6 | 52 | 45.0 % | 9 |",
        "1,234,567 parameters, stored as float16. Version 7.",
        "The mean error of the expected age is 6.5 years.",
        'threshold for "the same person", a cosine of 0.346,',
        "gender is right for 91.5 % of those below 15, and for 91.6 % of all others",
        "black is 50 of the 153 test faces",
        "never found: scared; found in less than half of its faces: sad (12.3 %).",
        "never found: 3; found in less than half of its faces: 4-6 (45.0 %).",
    ):
        assert row in text, row
    assert "| hispanic |" not in text  # no face and no answer


def test_every_figure_of_the_log_moves_the_card(card, log):
    before = card.model_card(log)
    for name in ("gender on utkface", "age on utkface", "ethnicity on utkface", "emotion on ferplus", "gender on lfw",
                 "emotion on lfw", "verification on lfw"):  # fmt: skip
        changed = copy.deepcopy(log)
        changed[name]["accuracy"] -= 0.01
        assert card.model_card(changed) != before, name


def test_aims_are_missed_or_reached_as_the_figures_say(card, log):
    text = flat(card.model_card(log))
    assert "All reach the least that was aimed at, in brackets: gender 91.7 % (90 %), age 56.3 % (55 %)" in text
    assert "Below" not in text
    log["gender on utkface"]["accuracy"] = 0.8499
    log["emotion on ferplus"]["accuracy"] = 0.4
    text = flat(card.model_card(log))
    assert "Below the least that was aimed at, in brackets: gender 85.0 % (90 %) and emotion 40.0 % (62 %)." in text
    assert "Reached: age 56.3 % (55 %), ethnicity 83.2 % (82 %) and verification 82.5 % (80 %)." in text
    assert "All reach" not in text


def test_the_history(card, log):
    text = flat(card.model_card(log))
    assert "from random weights: 98,765 crops in 4,321 steps, at 112 and 224 px, 224 px last; 62 minutes" in text
    assert "62 minutes on 2 CPU threads." in text
    log["training"] |= {"origin": {"start": "old.safetensors"}, "device": "cuda", "processes": 2}
    text = flat(card.model_card(log))
    assert "from the weights file `old.safetensors`, whose own training is not counted here" in text
    assert "62 minutes on 2 GPUs" in text
    log["training"]["origin"]["says"] = {"version": "6"}
    log["training"]["age_spread"] = 0.03
    log["before"] = {"images": 5000, "steps": 100}
    text = flat(card.model_card(log))
    assert "from version 6 of these weights, which had seen 5,000 crops of the same sets in 100 steps: 98,765" in text
    assert "bells of σ = 0.5 + 0.03 · years" in text


def test_paragraphs_are_filled_and_tables_are_not(card, log):
    text = card.model_card(log)
    assert all(len(line) <= 118 or line.startswith("|") for line in text.splitlines())
    assert "\0" not in text
    assert "\n%" not in text
    assert text.endswith("not measured.\n")
    assert "{" not in text


def test_the_command(card, log, tmp_path, capsys):
    path, out = tmp_path / "log.json", tmp_path / "CARD.md"
    path.write_text(json.dumps(log))
    card.main([str(path), str(out)])
    assert out.read_text(encoding="utf-8") == card.model_card(log)
    del log["faces"]
    path.write_text(json.dumps(log))
    for broken, message in ((path, "no entry 'faces'"), (tmp_path / "none.json", "none.json")):
        with pytest.raises(SystemExit, match="2"):
            card.main([str(broken), str(tmp_path / "other.md")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other.md").exists()
