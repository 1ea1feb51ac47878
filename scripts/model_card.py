"""Write the model card of weights that ``train_demo_weights.py`` made, from the log beside them.

    python scripts/model_card.py LOG OUT

Every figure of the card comes from the log.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Log = Mapping[str, Any]

#: Head or task → the figure that counts, and the least that it was meant to reach.
AIMS = {
    "gender": ("gender on utkface", 0.90),
    "age": ("age on utkface", 0.55),
    "ethnicity": ("ethnicity on utkface", 0.82),
    "emotion": ("emotion on ferplus", 0.62),
    "verification": ("verification on lfw", 0.80),
}


def model_card(log: Log) -> str:
    """The card as Markdown, 118 columns wide but for its tables.

    Args:
        log: what the training script writes beside the weights, read from JSON.

    Raises:
        KeyError: an entry is missing, so this is no such log.
    """
    sections: tuple[Callable[[Log], str], ...] = (_purpose, _data, _training, _accuracy, _tables, _limits)
    return "\n\n".join(_wrap(section(log)) for section in sections) + "\n"


def _purpose(log: Log) -> str:
    groups = log["groups on utkface"]
    young, older = groups["0-14 years"], groups["15+ years"]
    return f"""\
# Model card: demonstration weights (`demo.safetensors`)

The network of "Deep Architectures for Face Attributes" (Baumgartner & Culpepper, 2016) as this package reconstructs it,
without an identity layer: one trunk, a 320-d embedding, and heads for gender (2 classes), age (14), emotion (7) and
ethnicity (9, of which 4 are trained). {log["parameters"]:,} parameters, stored as float16.
Version {log["version"]}.

**Licence of the weights: trained on research-only data, for research and demonstration, not for commercial use.** The
licence of the code does not extend to them.

## What they are for

Showing and testing the package: that photos are detected, aligned and run, that fast and reference paths agree, what
the answers look like. They were trained briefly, on little data; treat their answers as examples, not as facts about
a person.

## What they must not be used for

- Decisions about people: hiring, credit, insurance, housing, policing, migration, access, pricing, care.
- Inferring emotions at work or in education (prohibited in the EU by Article 5 of the AI Act).
- Inferring ethnicity of people in the EU, or anywhere to sort or treat people by it. Labels such as these describe
  what annotators saw in a picture, not a person's origin or identity; likewise gender.
- Children, unless evaluated for the purpose: in the test, gender is right for {_percent(young["gender"])} of those
  below 15, and for {_percent(older["gender"])} of all others.
- Live surveillance, and identification: the embedding was trained on {log["training"]["people"]} people and is far
  too weak to tell people apart.

The package leaves emotion and ethnicity out of its answers unless they are asked for (`sensitive=True`,
`--sensitive`)."""


def _data(log: Log) -> str:
    faces = {name: f"{counts['training']:,}" for name, counts in log["faces"].items()}
    people, least = log["training"]["people"], log["training"]["recipe"]["least_images"]
    identities = f"{people} people with {least} or more pictures in the training part"
    lfw_terms = (
        'no licence stated; research only; "should not be used to conclude that an algorithm is suitable for any '
        'commercial purpose"'
    )
    lfw_labels = (
        f"person ({identities}), gender by first name (a few per cent wrong), emotion (nearly all neutral or happy, at "
        "half weight)"
    )
    return f"""\
## Training data and its terms

| data set | faces used | labels used | terms |
|---|---|---|---|
| UTKFace, part 1, aligned | {faces["utkface"]} | age, gender, four ethnicities | non-commercial research only |
| Labeled Faces in the Wild, deep-funneled, folds 1-5 | {faces["lfw"]} | {lfw_labels} | {lfw_terms} |
| FER+, training split | {faces["ferplus"]} | votes of ten annotators over seven emotions | labels MIT, pictures research only |

None of the pictures is in the package. UTKFace's Asian, Black, Indian and White became east-asian, black, south-asian
and white; its Others count as unknown. **No data at all: hispanic, middle-eastern, pacific-islander, south-east-asian
and native-american.** The network must not be expected to name them (the file marks them as untrained), and faces
that belong there are given one of the other four. UTKFace names no subjects: near-duplicates (by a difference hash)
were kept on one side of the split, but two different photos of one person may be on both."""  # noqa: E501


def _training(log: Log) -> str:
    return f"""\
## How they were trained

{_history(log)}

The paper trains the base network on identities alone, then each head on its own from a frozen trunk. Here identities
are few, so the base learned from the attributes too (`docs/training.md` compares): every head's loss and that of the
identities reach the trunk, a face giving loss only for the labels it has. Age targets are a bell over neighbouring
bins, emotion targets the shares of votes. Crops follow the rule in the file (`crop`): similarity to five points in
224 px, border replicated; training moves, turns, scales, flips, recolours, blurs and greys them. At the end the
embedding was turned by a linear map that whitens what varies within a person (measured on training people; the
inverse went into every layer that reads the embedding, so that attributes are unchanged), which helps
verification.{_relearned(log)}"""


def _history(log: Log) -> str:
    """How the run went."""
    training = log["training"]
    origin = training["origin"]
    version = origin.get("says", {}).get("version")
    file = f"version {version} of these weights" if version else f"the weights file `{origin['start']}`"
    begin = "from random weights" if origin["start"] == "random" else f"from {file}, {_before(log)}"
    sizes = [line["size"] for line in training["log"]]
    threads = _count(training["threads"] * training["processes"], f"{training['device'].upper()} thread")
    on = f"on {threads}" if training["device"] == "cpu" else f"on {_count(training['processes'], 'GPU')}"
    return (
        f"All heads at once, {begin}: {training['images']:,} crops in {training['steps']:,} steps, at "
        f"{_list(f'{size}' for size in sorted(set(sizes)))} px, {sizes[-1]} px last; {training['minutes']:.0f} minutes "
        f"{on}. `scripts/train_demo_weights.py` makes such a file; the recipe is in the file (`training`)."
        f"{_age_targets(training)}"
    )


def _age_targets(training: Log) -> str:
    """How soft the targets of ages were, where the run was told."""
    spread = training.get("age_spread")
    return "" if spread is None else f" Targets of ages were bells of σ = 0.5 + {spread} · years (`--age-spread`)."


def _before(log: Log) -> str:
    """What is known of the weights that training began from."""
    if "before" not in log:
        return "whose own training is not counted here"
    before = log["before"]
    return f"which had seen {before['images']:,} crops of the same sets in {before['steps']:,} steps"


def _relearned(log: Log) -> str:
    """The heads that were learned anew on the frozen trunk, where there are any."""
    rows = log.get("learned anew") or {}
    if not rows:
        return ""
    table = "\n".join(
        f"| {head} | {row['branch']} | {_percent(row['accuracy'])} | {row['anew at']} "
        f"| {_percent(row['accuracy anew'])} | {'learned anew' if row['kept'] else 'trained with the trunk'} |"
        for head, row in rows.items()
    )
    return f"""

Heads were also learned anew on the finished trunk, which stayed as it was, at the branch points that a depth search
found (`docs/training.md`). Accuracy on the held-out faces, which were looked at to choose what ships:

| head | trained with the trunk, at | | learned anew, at | | shipped |
|---|---|---|---|---|---|
{table}"""


def _accuracy(log: Log) -> str:
    gender, age, ethnicity = (log[f"{head} on utkface"] for head in ("gender", "age", "ethnicity"))
    verification = log["verification on lfw"]
    near = f"{_percent(age['within one bin'])} within one bin"
    area = f"area under curve {verification['area under curve']:.3f}"
    rows = (
        ("gender", "UTKFace, held out", gender, ""),
        ("gender", "LFW, held-out people, label by first name", log["gender on lfw"], ""),
        ("age, 14 bins", "UTKFace, held out", age, f" ({near})"),
        ("ethnicity, 4 classes", "UTKFace, held out, without Others", ethnicity, ""),
        (
            "emotion, 7 classes",
            "FER+, public test without ties and without pictures that have no vote for the seven",
            log["emotion on ferplus"],
            "",
        ),
        ("emotion, 7 classes", "LFW, held-out people", log["emotion on lfw"], ""),
        (
            "same person or not",
            "LFW, folds 6 and 7 (ten parts, threshold from the other nine)",
            verification,
            f" ({area})",
        ),
    )
    table = "\n".join(
        f"| {task} | {data} | {figure['n']} | {_percent(figure['accuracy'])}{more} | {_most_frequent(figure)} |"
        for task, data, figure, more in rows
    )
    return f"""\
## Accuracy on faces that training never saw

**These faces were not used to fit the weights, but they were looked at:** figures on the held-out UTKFace and FER+
faces were seen a few times while the method was made, and settings were changed after that. So the figures may be
slightly optimistic; a check on data that nobody looked at has not been made.

Measured with the float16 weights as shipped, 224 px crops, one crop per face, no flipping. UTKFace and LFW faces were
aligned by YuNet's landmarks; FER+ pictures were taken whole. "Most frequent" is what always answering the most frequent
class would score.

| task | test data | n | accuracy | most frequent |
|---|---|---|---|---|
{table}

The mean error of the expected age is {age["mean error in years"]:.1f} years. The file's threshold for "the same
person", a cosine of {round(verification["threshold"], 4):.3f}, was chosen on all the pairs; the accuracy above was
not measured with it, but with one per part, chosen on the other nine.{_int8(log)}

The paper reports 99 % (gender), 40 % (age), 72 % (ethnicity), 68 % (emotion) and 95.98 % (verification) on data and
labels of its own: the figures do not compare."""


def _int8(log: Log) -> str:
    """How far int8 answers as float32 does, where the file has scales for it."""
    if "int8 on utkface" not in log:
        return ""
    figure = log["int8 on utkface"]
    agreements = {name: head["agreement"] for name, head in figure["heads"].items() if head["agreement"] is not None}
    same = _list([f"{name} {_percent(agreement)}" for name, agreement in agreements.items()])
    return (
        f" In int8, with scales from {figure['images']} training faces, the answers are those of float32 on "
        f"{figure['n']} held-out UTKFace faces in these cases: {same}."
    )


def _tables(log: Log) -> str:
    groups = "\n".join(
        f"| {name} | {group['n']} | {_percent(group['gender'])} | {_percent(group['age'])} "
        f"| {group['mean error in years']:.1f} | {_percent(group['ethnicity'])} |"
        for name, group in log["groups on utkface"].items()
        if group["n"]
    )
    return f"""\
### By group (UTKFace, held out)

| group | n | gender | age (14 bins) | age error, years | ethnicity |
|---|---|---|---|---|---|
{groups}

With n faces the 95 % interval is about ± 100/√n percentage points or less: ± 14 for 50 faces, ± 6 for 300.

### By class

"Found": how many of the class's faces were given it. "Answers": how often it was given at all.

Ethnicity (UTKFace, held out):

{_classes(log["ethnicity on utkface"])}

Emotion (FER+, public test):

{_classes(log["emotion on ferplus"])}

Age (UTKFace, held out):

{_classes(log["age on utkface"])}"""


def _classes(figure: Log) -> str:
    rows = [
        f"| {name} | {row['n']} | {_percent(row['recall'])} | {row['predicted']} |"
        for name, row in figure["classes"].items()
        if row["n"] or row["predicted"]
    ]
    return "\n".join(["| class | n | found | answers |", "|---|---|---|---|", *rows])


def _limits(log: Log) -> str:
    groups, ethnicity = log["groups on utkface"], log["ethnicity on utkface"]
    by_age = ", ".join(f"{_percent(row['gender'])} at {name}" for name, row in groups.items() if _is_band(name, row))
    by_gender = ", ".join(f"{_percent(groups[name]['gender'])} for {name} faces" for name in ("female", "male"))
    children = groups["0-14 years"]["n"] / log["gender on utkface"]["n"]
    rarest, row = min(((name, row) for name, row in ethnicity["classes"].items() if row["n"]), key=lambda x: x[1]["n"])
    return f"""\
## Limits

- {_aims(log)}
- Gender depends on age: {by_age}. By gender itself: {by_gender}; by ethnicity: see the table. {100 * children:.0f} %
  of the test faces are of children below 15, which weighs on the overall figure.
- Few faces of some groups: {rarest} is {row["n"]} of the {ethnicity["n"]} test faces that have an ethnicity
  ({_percent(row["recall"])} found), and old faces are few in most groups. Such figures are uncertain.
- Emotions: {_seldom(log["emotion on ferplus"])} Disgusted and scared are rare in the training data. FER+ and UTKFace
  pictures are posed or from the web, and the test data comes from the same sources as the training data. Expect less
  on other photos.
- Age bins: {_seldom(log["age on utkface"])} Ages 0-4 and above 60 are over-represented in UTKFace, which raises the
  accuracy over 14 bins; "60+" stands for 70 years in the expected age, which is too low for the very old.
- Verification at {_percent(log["verification on lfw"]["accuracy"])} is a demonstration of the interface. Do not
  identify anyone with it.
- Probabilities are not calibrated.
- Crops by a detector's box alone (Haar) are coarser than those by landmarks; accuracy on them was not measured."""


def _aims(log: Log) -> str:
    """Which of the least accuracies aimed at were reached, and which were not."""
    reached: list[str] = []
    missed: list[str] = []
    for task, (figure, aim) in AIMS.items():
        accuracy = log[figure]["accuracy"]
        (reached if accuracy >= aim else missed).append(f"{task} {_percent(accuracy)} ({100 * aim:.0f} %)")
    if not missed:
        return f"All reach the least that was aimed at, in brackets: {_list(reached)}. Far from the state of the art."
    also = f" Reached: {_list(reached)}." if reached else ""
    return f"Below the least that was aimed at, in brackets: {_list(missed)}.{also}"


def _seldom(figure: Log) -> str:
    """The classes that are never found, and those in less than half of their faces."""
    found = {name: row["recall"] for name, row in figure["classes"].items() if row["n"]}
    never = [name for name, recall in found.items() if recall == 0]
    less = [f"{name} ({_percent(recall)})" for name, recall in found.items() if 0 < recall < 0.5]
    parts = (("never found", never), ("found in less than half of its faces", less))
    text = "; ".join(f"{how}: {_list(names)}" for how, names in parts if names)
    return f"{text or 'each is found in at least half of its faces'}."


def _is_band(name: str, row: Log) -> bool:
    """One of the age bands that do not overlap."""
    return name.endswith(" years") and name not in ("0-14 years", "15+ years") and row["n"] > 0


def _most_frequent(figure: Log) -> str:
    if "classes" not in figure:
        return "50.0 %"  # as many pairs of one person as of two
    return _percent(max(row["n"] for row in figure["classes"].values()) / figure["n"] if figure["n"] else None)


def _percent(share: float | None) -> str:
    """Rounded as in the file's metadata first (four digits), so that both give one figure."""
    return "–" if share is None else f"{100 * round(share, 4):.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _list(names: Iterable[str]) -> str:
    """At least one name, as a sentence lists them."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _wrap(text: str) -> str:
    """Every paragraph and item filled to 118 columns; tables and headings as they are."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith(("|", "#")):
            blocks.append(block)
            continue
        mark = "- " if block.startswith("- ") else ""
        items = block.removeprefix("- ").split("\n- ") if mark else [block]
        blocks.append("\n".join(_fill(item, mark) for item in items))
    return "\n\n".join(blocks)


def _fill(text: str, mark: str) -> str:
    words = " ".join(text.split()).replace(" %", "\0%")  # a figure keeps its unit beside it
    lines = textwrap.wrap(words, 118 - len(mark), break_long_words=False, break_on_hyphens=False)
    return mark + f"\n{' ' * len(mark)}".join(lines).replace("\0", " ")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, metavar="LOG", help="JSON file that the training script wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="Markdown file to write")
    arguments = parser.parse_args(argv)
    try:
        log = json.loads(arguments.log.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.log}: {error}")
    try:
        card = model_card(log)
    except KeyError as error:
        parser.error(f"{arguments.log}: no entry {error}: expected a log that this version's training script wrote")
    partial = arguments.out.with_name(arguments.out.name + ".part")
    partial.write_text(card, encoding="utf-8")
    os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
