"""`latent-audit export` and `push`: a finished audit in the forms of other tools, and its card on the hub."""

import pathlib
from collections.abc import Collection

from absl import logging

from latent_audit import user_files
from latent_audit.commandline import arguments, workdirs
from latent_audit.errors import InputError
from latent_audit.exports import audited, curves, hub, inspect_log, model_card
from latent_audit.runtime import ends, files

FORMS = ("model_card", "inspect", "tensorboard", "wandb")
DEFAULT = "export"


def run(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Write the forms that were asked for; InputError for none, for other words, and as audited.read and each form."""
    found = _read(given, "export", "[--model-card] [--inspect] [--tensorboard] [--wandb]")
    asked = [form for form in FORMS if getattr(given, form)]
    if not asked:
        raise InputError("say what to export: --model-card, --inspect, --tensorboard or --wandb")
    if given.with_answers and "inspect" not in asked:
        raise InputError("--with-answers is of --inspect: no other form holds answers")
    place = found.workdir / DEFAULT
    if given.workdir is not None:
        place = user_files.path_of("--workdir", user_files.check_text("--workdir", given.workdir, lines=False))
    workdirs.check(place)
    paths = {form: place / _name(form, found) for form in asked}
    texts = _checked(found, paths, given.with_answers)
    if given.dry_run:
        return ends.tell([*(f"{path}" for path in paths.values()), "dry run: nothing was written"], closed)
    state.workdir = place
    place.mkdir(parents=True, exist_ok=True)
    for form, text in texts.items():
        if form == "inspect":
            files.write_json(paths[form], text)
        else:
            files.write_text(paths[form], str(text))
    if "tensorboard" in paths:
        curves.write_tensorboard(found, paths["tensorboard"])
    if "wandb" in paths:
        config = user_files.read_json("the run's config", found.workdir / "config.json", kind=dict)
        curves.write_wandb(found, paths["wandb"], config)
    for form, path in paths.items():
        logging.info("%s", _OPEN[form].format(path=path, place=place))
    if given.with_answers:
        logging.warning("%s holds answers of the model, harmful ones among them: keep it to yourself", paths["inspect"])
    return 0


def _name(form: str, found: audited.Run) -> str:
    """What a form is called below the directory of exports; each variant has its own."""
    if form == "inspect":
        return inspect_log.name(found)
    own = workdirs.safe(found.variant)
    return f"model_card-{own}.md" if form == "model_card" else f"{form}/{own}"


_OPEN = {
    "model_card": "{path}: put it into the model's README.md, or `latent-audit push`",
    "inspect": "{path}: open it with `inspect view --log-dir {place}`",
    "tensorboard": "{path}: open it with `tensorboard --logdir {path}`",
    "wandb": "{path}: kept here; upload it with `wandb sync {path}/wandb/offline-run-*`",
}


def _checked(found: audited.Run, paths: dict[str, pathlib.Path], answers: bool) -> dict[str, object]:
    """What the plain forms hold; whatever another one lacks is said before anything is written."""
    if "wandb" in paths:
        curves.wandb_library()
    texts: dict[str, object] = {}
    if "model_card" in paths:
        texts["model_card"] = model_card.card(found)
    if "inspect" in paths:
        texts["inspect"] = inspect_log.log(found, answers=answers)
    return texts


def push(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Upload the card and the report of a finished audit in one commit; InputError as audited.read and exports.hub."""
    found = _read(given, "push", "--repo=OWNER/NAME")
    if given.repo is None:
        raise InputError("--repo=OWNER/NAME is missing: the model repository on the hub whose card is written")
    if given.workdir is not None:
        raise InputError("`latent-audit push` writes nothing here; leave --workdir out")
    repo = hub.check_id(given.repo)
    listed = [f"{hub.CARD}, its section Latent audit and its metadata", *hub.files(found)]
    if given.dry_run:
        told = [f"to {repo}, in one commit:", *listed, "no prompt and no answer; dry run: nothing was uploaded"]
        return ends.tell(told, closed)
    hub.check_token(repo)
    there = hub.current(repo)
    address = hub.upload(repo, found, hub.merged(there.card, found), there.commit)
    for line in listed:
        logging.info("uploaded: %s", line)
    logging.info("%s", address)
    return 0


def _read(given: arguments.Arguments, command: str, flags: str) -> audited.Run:
    places = given.words[1:]
    if len(places) != 1 or given.fields or given.quick or given.limit is not None:
        raise InputError(f"`latent-audit {command}` takes WORKDIR, {flags} and --variant=NAME")
    return audited.read(places[0], given.variant or "")
