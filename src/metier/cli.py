"""The command line: one command for the whole road, and a few to look at it.

Nothing heavy is imported until a command needs it, so help and listings come at once.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.options import MetierError
from metier.printed import conclude, facts_of, print_json, show_method, table

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    name="metier", rich_markup_mode=None, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Turn a general language model into a specialist of your field, and prove what it gained, forgot and cost.",
)  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change an option: step.option=value.")]


def main() -> None:
    """Bad input is one sentence and exit code 2; Ctrl-C is left to ``__main__``, where the command begins."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # for its authors, not its users
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except MetierError as error:
        print(f"metier: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except (KeyboardInterrupt, Exception) as error:
        # Depending on its release typer lets Ctrl-C through, calls it Abort, or returns an exit code.
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
            code = INTERRUPTED
        elif type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            print(f"metier: {error.format_message()}", file=sys.stderr)
            sys.exit(BAD_INPUT)
        elif isinstance(error, OSError) and error.errno is not None:  # a name too long, a folder one may not read
            place = "standard output" if error.filename is None else error.filename
            print(f"metier: {MetierError(f'{place}: {error.strerror}')}", file=sys.stderr)
            sys.exit(BAD_INPUT)
        else:
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def adapt(
    docs: Annotated[list[str], typer.Argument(help="Files, folders, globs, or - for standard input.")],
    model: Annotated[str, typer.Option(help="smollm2 (embedded), a hub name, or a local folder.")] = "smollm2",
    out: Annotated[str, typer.Option(help="Folder for the specialist and its report.")] = "expert",
    budget: Annotated[str, typer.Option(help="Time for everything, such as 10m or 2h.")] = "10m",
    merge: Annotated[bool, typer.Option("--merge", help="Fold the adapter into the weights.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="Also write a GGUF file.")] = False,
    retention: Annotated[str, typer.Option(help="More general tasks, such as lm-eval:arc_easy,hellaswag.")] = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Documents in, specialist and honest report out."""
    from metier import road

    changes: dict[str, Any] = {
        "chunks.source": docs,
        "base.path": model,
        "plan.budget": budget,
        "out.to": out,
        "out.merge": merge,
        "out.gguf": gguf,
    }
    if retention:
        suite, _, names = retention.partition(":")
        if suite != "lm-eval" or not names:
            raise MetierError(f"--retention must be lm-eval:TASK[,TASK…], got {retention!r}")
        more = ["$general", {"use": "tasks.lm_eval", "names": names.split(",")}]
        changes |= {"general_before.tasks": more, "general_after.tasks": more}
    done = road.execute(road.RECIPES / "adapt.yaml", changes | road.changes(sets), as_json)
    conclude(done["out"].open().numbers, Path(out), as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the name of a ready one.")],
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run a recipe; what was computed before is not computed again."""
    from metier import road

    done = road.execute(road.recipe_file(recipe), road.changes(sets), as_json)
    if as_json:
        print_json([{"step": d.name, "use": d.use, "key": d.key, "cached": d.cached, "seconds": d.seconds,
                      "peak_memory_bytes": d.peak_memory_bytes}
                     for d in done.values()])  # fmt: skip


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the name of a ready one.")],
    sets: Sets = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Read the data and try two steps of each training, to tell the time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a recipe whole, before anything runs: names, options, ranges, kinds, access, and whether it fits."""
    from metier import preflight, road, store
    from metier.calls import describe

    calls = road.checked(road.recipe_file(recipe), road.changes(sets))
    estimate = road.measured(calls, as_json) if measure else preflight.foresee(calls)
    rows = [
        {"step": c.name, "use": c.method.name, "options": describe(c.arguments), "seconds": n.seconds,
         "memory_bytes": n.memory, "disk_bytes": n.disk, "kept": n.kept}
        for c, n in zip(calls, estimate.needs, strict=True)
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        cells = [[n.step, n.use, *preflight.cells(n)] for n in estimate.needs]
        table(["step", "use", "time", "memory", "disk"], cells)
        print(f"{len(rows)} steps, nothing to object: {preflight.sentence(estimate, store.home())}")
    preflight.refuse(estimate, store.home())


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study: a recipe with arms, grid, seeds and claims.")],
    out: Annotated[Path | None, typer.Option(help="Where results and page go; beside the study if not said.")] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe in several arms and say, with intervals, which claims hold."""
    from metier import console
    from metier import study as studies

    with console.Display(as_json) as display:
        facts = studies.run(
            file, out, show=studies.Show(display.progress, display.started, display.finished, display.say)
        )
    if as_json:
        print_json(facts)
    else:
        header, *rows = studies.table(facts)
        table(list(header), [list(row) for row in rows])
        print(f"page: {(out or file.parent) / 'index.html'}")


@app.callback()
def everything(
    methods: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="METIER_METHODS", help="A folder with methods of your own, such as train/objective/mine.py."
        ),
    ] = None,
) -> None:
    if methods:
        from metier import catalogue

        for folder in methods:
            catalogue.add(folder)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Room and name, such as train.objective.mine.")],
    to: Annotated[Path, typer.Option(help="The folder of your methods.")] = Path("methods"),
) -> None:
    """Write a method of your own and its test from the template of its room."""
    from metier import scaffold

    method, test = scaffold.write(name, to)
    print(f"{method}\n{test}\n\nFill in the maths, then: metier --methods {to} laws {name}")


@app.command()
def laws(
    name: Annotated[str, typer.Argument(help="A method, such as train.objective.mine.")], as_json: Json = False
) -> None:
    """Try a method against every law of its room, on a toy model."""
    import tempfile

    from metier import catalogue
    from metier.laws import run as trial
    from metier.laws.case import Bench

    method = catalogue.find(name, "laws")
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        verdicts = [trial.keep(method, law, bench, Path(place) / law) for law in trial.laws(method)]
    if as_json:
        print_json([{"law": v.law, "holds": v.holds, "why": v.why} for v in verdicts])
    else:
        said = {True: "holds", False: "broken", None: "exempt"}
        table(["law", "", "why"], [[v.law.replace("_", " "), said[v.holds], v.why] for v in verdicts])
    broken = sum(v.holds is False for v in verdicts)
    if broken:
        raise MetierError(f"{name} breaks {broken} of {len(verdicts)} laws")


@app.command(name="list")
def list_(
    room: Annotated[str, typer.Argument(help="Only this room, such as train.objective.")] = "", as_json: Json = False
) -> None:
    """The methods there are, by room."""
    from metier import catalogue

    found = [m for m in catalogue.methods().values() if not room or m.room == room]
    if not found:
        raise MetierError(f"list: no room '{room}'; there are: {', '.join(catalogue.ROOMS)}")
    if as_json:
        print_json([{"name": m.name, "room": m.room, "verb": m.verb, "summary": m.summary} for m in found])
    else:
        table(["use", "what it does"], [[m.name, m.summary] for m in found])


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="A method, a ready recipe, a specialist's folder, or: masks FILE.")],
    file: Annotated[Path | None, typer.Argument(help="With masks: the file with conversations.")] = None,
    model: Annotated[str, typer.Option(help="With masks: whose chat template and tokens.")] = "smollm2",
    count: Annotated[int, typer.Option(min=1, help="With masks: records that are shown.")] = 3,
    length: Annotated[int, typer.Option(min=2, help="With masks: longest record in tokens.")] = 1024,
    as_json: Json = False,
) -> None:
    """A method's card and options, a recipe's text, a specialist's numbers, or what is learnt of a file."""
    recipe = Path(__file__).parent / "recipes" / f"{what}.yaml"
    if (what == "masks") != (file is not None):
        raise MetierError("show: masks needs a file, as in: metier show masks chats.jsonl")
    if file is not None:
        from metier import masks

        masks.show(file, model, count, length, as_json)
    elif (Path(what) / "report.json").exists():
        conclude(facts_of(Path(what)), Path(what), as_json)
    elif recipe.exists():
        print(recipe.read_text(encoding="utf-8"))
    else:
        show_method(what, as_json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A specialist's folder, a model folder or name.")],
    second: Annotated[str, typer.Argument(help="With --compare: the model to put beside it.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Answer with two models side by side.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 200,
) -> None:
    """Talk to a specialist, or to two models side by side."""
    if compare != bool(second):
        raise MetierError("chat: --compare needs two models, as in: metier chat --compare smollm2 expert/")
    from metier import talk

    talk.loop([model, second] if compare else [model], max_tokens)


@app.command()
def papers(as_json: Json = False) -> None:
    """The papers whose methods are here: files, tests, study, verdict, all derived."""
    from metier import papers as index

    rows = index.rows()
    if as_json:
        print_json(rows)
    else:
        built = [r for r in rows if r["files"]]
        columns = ("paper", "title", "files", "study", "verdict")
        cells = [[" ".join(r[c]) if isinstance(r[c], list) else str(r[c] or "") for c in columns] for r in built]
        table(list(columns), cells)
        print(f"{len(built)} of {len(rows)} papers have a method here")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can do, and what is missing."""
    from metier import doctor as examine

    rows = examine.report()
    if as_json:
        print_json(rows)
    else:
        table(["", "what", "value", "advice"],
               [["ok" if r["ok"] else "!", r["name"], str(r["value"]), r["advice"] or ""] for r in rows])  # fmt: skip
