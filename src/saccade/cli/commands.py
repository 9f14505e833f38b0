"""The commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from saccade._checks import check_choice
from saccade.errors import UsageError

# Typer's help renderer on rich triples the time to start.
app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Add attention to convolutional networks, and tell whether it helped."""
    if version:
        from saccade import __version__

        print(__version__)
        raise typer.Exit


@app.command("list")
def list_command(
    kind: Annotated[str | None, typer.Option(help="Only this kind: gate, conv, ...")] = None,
    attends: Annotated[str | None, typer.Option(help="Only what weighs this: channel, positions, ...")] = None,
    networks: Annotated[bool, typer.Option("--networks", help="The papers' networks instead.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the attention mechanisms, with what they cost at 256 channels on a 14 x 14 map."""
    import saccade
    from saccade.cli import mechanisms

    if networks:
        if kind is not None or attends is not None:
            raise UsageError("--kind and --attends choose among mechanisms; leave them out with --networks")
        from saccade.cli.networks import print_networks

        print_networks(as_json=json)
        return
    names = saccade.list_attention(kind, attends)
    (mechanisms.print_json if json else mechanisms.print_table)(names)


@app.command()
def describe(name: Annotated[str, typer.Argument(help="A mechanism, such as gam.")]) -> None:
    """Tell all about a mechanism: paper, equations, options, deviations, limits, and what it costs."""
    from saccade.cli import mechanisms

    mechanisms.print_card(name)


@app.command()
def sites(
    model: Annotated[
        str, typer.Argument(help="A timm name, torchvision:NAME, saccade:NAME, or path/to/file.py:function.")
    ],
    at: Annotated[
        str | None, typer.Option(help="Only these: a kind (residual, conv, ...), or paths and globs with commas.")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="deepest:N, the N smallest map sizes among them.")] = None,
    max_positions: Annotated[int | None, typer.Option(help="Only maps of at most so many positions.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Such as 96 or 224x320; default: the model's own.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List where attention can go in a network, before anything is changed."""
    from saccade.cli.sites import print_sites

    print_sites(model, at=at, stages=stages, max_positions=max_positions, image_size=image_size, as_json=json)


@app.command()
def cost(
    model: Annotated[
        str, typer.Argument(help="A timm name, torchvision:NAME, saccade:NAME, or path/to/file.py:function.")
    ],
    attention: Annotated[str, typer.Option(help="Beside the host, such as se,gam(reduction=8),aaconv.")] = "none",
    at: Annotated[str | None, typer.Option(help="Where: residual, block, ..., paths or globs, with commas.")] = None,
    start: Annotated[str, typer.Option(help="paper or identity.")] = "paper",
    image_size: Annotated[str | None, typer.Option(help="Such as 96 or 224x320; default: the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once, beside one alone.")] = 4,
    compile: Annotated[bool, typer.Option("--compile", help="Also by torch.compile, which takes a while.")] = False,
    threads: Annotated[int | None, typer.Option(help="Of the CPU; default: as PyTorch has it.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    no_train: Annotated[bool, typer.Option("--no-train", help="Without training steps and their memory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure what attention costs: parameters, multiply-accumulates, latency, training step, memory."""
    from saccade.cli.cost import print_cost

    print_cost(
        model,
        attention=attention,
        at=at,
        start=start,
        image_size=image_size,
        batch_size=batch_size,
        compile=compile,
        thread_count=threads,
        device=device,
        train=not no_train,
        as_json=json,
    )


@app.command()
def compare(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file with these options; those given here as well win.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="The host: a timm name, torchvision:NAME, saccade:NAME, file.py:function.")
    ] = "saccade:cifar_resnet(depth=8, stem_stride=2)",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="From the library's weights.")] = False,
    data: Annotated[str, typer.Option(help="sample, cifar10, cifar100, or imagefolder:PATH.")] = "sample",
    attention: Annotated[
        str, typer.Option(help="Variants, such as none,se,gam(reduction=8).")
    ] = "none,se,sem,gam,aaconv",
    at: Annotated[str | None, typer.Option(help="Where: residual, block, ..., paths or globs, with commas.")] = None,
    start: Annotated[
        str | None, typer.Option(help="paper or identity; by default identity for a pretrained host.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many, such as 3, or which, such as 0,1,2.")] = "5",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 6,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate; by default 0.1, or 0.01 for a pretrained host.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of SGD.")] = 5e-4,
    image_size: Annotated[
        int | None, typer.Option(help="Side to which images of a folder are brought; by default 32, or 224 pretrained.")
    ] = None,
    margin: Annotated[float, typer.Option(help="The smallest difference that matters, in points.")] = 0.5,
    control: Annotated[str, typer.Option(help="longer, wider: the baseline given the dearest variant's compute.")] = "",
    tune: Annotated[int, typer.Option(help="Learning rates and weight decays tried for each variant beforehand.")] = 0,
    compile: Annotated[bool, typer.Option("--compile", help="Measure latency by torch.compile, too.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Processes of one thread each; default and at most the cores.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison. Run again with it to go on.")] = Path(
        "saccade-compare"
    ),
) -> None:
    """Train attention variants with several seeds and tell which one helped.

    Without options: embedded real images, a small network, five variants, five seeds, some minutes on two cores.
    """
    from saccade.cli.compare import run_comparison

    given = {name: value for name, value in context.params.items() if name != "config"}
    typed = {name for name in given if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"}
    raise typer.Exit(run_comparison(given, typed, config))


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe, such as sample-resnet8.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes and exit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print network, cost, steps and the time they take here; train nothing.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, such as optim.lr=0.1; may be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, by default runs/RECIPE; again to go on.")] = None,
    augment: Annotated[str | None, typer.Option(help="none: images as they are.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where CIFAR is, or is downloaded to.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints within an epoch.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make batches ahead.")] = 0,
    logger: Annotated[
        list[str] | None, typer.Option(help="Beside metrics.csv: tensorboard; wandb, ..., where installed; none.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="By torch.compile.")] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu, auto; handed to Lightning, as the next three.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many, or auto.")] = "1",
    num_nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="ddp, fsdp, ...")] = "auto",
    sync_batchnorm: Annotated[
        bool, typer.Option("--sync-batchnorm", help="BatchNorm over the batches of all GPUs.")
    ] = False,
) -> None:
    """Train a recipe: a network with attention, on its data."""
    from saccade.cli.train import print_recipes, run_recipe

    if list_:
        print_recipes()
        return
    if recipe is None:
        raise UsageError("`recipe` is missing: name a recipe, such as sample-resnet8; --list shows them")
    changes = list(set_ or [])
    if augment is not None:
        check_choice("augment", augment, ("none",))
        changes.append("augment={'flip': False}")
    machine = {
        "accelerator": accelerator,
        "devices": int(devices) if devices.isdigit() else devices,
        "num_nodes": num_nodes,
        "strategy": strategy,
        "sync_batchnorm": sync_batchnorm,
        "workers": workers,
        "compile": compile,
    }
    if dry_run:
        from saccade.cli.dry_run import print_dry_run
        from saccade.recipes import read_recipe
        from saccade.training.fit import Machine
        from saccade.training.recipe import changed

        asked = changed(read_recipe(recipe)[0], changes)
        print_dry_run(asked, machine=Machine(**machine), data_dir=data_dir, skip_bad=skip_bad)
        return
    folder = out or Path("runs") / recipe
    loggers = [name for name in logger or ["tensorboard"] if name != "none"]
    try:
        run_recipe(
            recipe, changes, folder, machine=machine, loggers=loggers, data_dir=data_dir, save_every=save_every,
            skip_bad=skip_bad,
        )  # fmt: skip
    except KeyboardInterrupt:
        saved = f" from {folder / 'last.ckpt'}" if (folder / "last.ckpt").exists() else ", from the beginning"
        print(f"\nstopped; run the same command again to go on{saved}", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of saccade train.")],
    model: Annotated[
        str | None, typer.Option(help="The network, needed where it comes from a file, which is then run.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where CIFAR is.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Annotated[str, typer.Option(help="Such as cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images ahead.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Evaluate a checkpoint: top-1, top-5, calibration error, and a table of classes."""
    from saccade.cli.train import evaluate_file

    evaluate_file(
        checkpoint, model=model, data=data, data_dir=data_dir, split=split, device=device, workers=workers,
        skip_bad=skip_bad, as_json=json,
    )  # fmt: skip


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished comparison.")],
    format: Annotated[str, typer.Option(help="html; or text, md, csv, json, printed.")] = "html",
) -> None:
    """Make the report of a comparison again from its results.json."""
    from saccade.cli.tables import print_comparison
    from saccade.report.html import write_report
    from saccade.report.markdown import results_markdown
    from saccade.report.results import read_results, results_csv

    check_choice("format", format, ("html", "text", "md", "csv", "json"))
    if format == "html":
        print(write_report(folder))
        return
    results = read_results(folder)
    if format == "text":
        print_comparison(results, folder / "report.html")
    elif format == "md":
        print(results_markdown(results), end="")
    elif format == "csv":
        print(results_csv(results), end="")
    else:
        print(results.model_dump_json(indent=2, by_alias=True))
