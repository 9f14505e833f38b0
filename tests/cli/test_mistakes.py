"""A user's mistake is one clear message on standard error and exit status 2."""

import pytest

from saccade.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("describe gan", "(did you mean 'sagan' or 'gam'?)"),
        ("list --kind gates", "`kind` (='gates') must be one of 'gate'"),
        ("report {tmp}", "holds no results.json: it is no folder of a finished comparison"),
        ("compare --attention none,cbm --out {tmp}/new", "`attention` (='cbm') must be one of"),
        ("compare --attention none,se(ratio=4) --out {tmp}/new", "se has no option 'ratio'; its options are reduction"),
        (
            "compare --attention none,se(reduction=0) --out {tmp}/new",
            "`reduction` (=0) must be an integer of at least 1",
        ),
        ("compare --model resnet81 --out {tmp}/new", "(='resnet81') "),
        ("cost saccade:cifar_resnet(depth=9)", "depth=8 is nearest"),
        ("cost saccade:cifar_resnet(deep=8)", "cifar_resnet has no option 'deep'"),
        ("compare --data imagefolder:{tmp}/none --out {tmp}/new", "there is no folder {tmp}/none"),
        (
            "compare --data cifar11 --out {tmp}/new",
            "`data` (='cifar11') must be sample, cifar10, cifar100 or imagefolder",
        ),
        ("train", "name a recipe"),
        ("train cifar10-resnet20", "`recipe` (='cifar10-resnet20') must be one of 'cifar100-aa-wrn28', "),
        ("train sample-resnet8 --set optim.rl=1", "there is no 'optim.rl' (did you mean 'optim.lr'"),
        ("train sample-resnet8 --set epochs=none", "`epochs` (=None): Input should be a valid integer"),
        ("train sample-resnet8 --set optim.lr", "`--set` (='optim.lr') must be KEY=VALUE, such as optim.lr=0.1"),
        ("train sample-resnet8 --augment all", "`augment` (='all') must be one of 'none'"),
        ("train sample-resnet8 --logger tensorbord --out {tmp}/new", "`logger` (='tensorbord') must be one of "),
        ("train sample-resnet8 --save-every 0 --out {tmp}/new", "`save_every` (=0) must be an integer of at least 1"),
        ("train sample-resnet8 --out /dev/null/new", "`out` (='/dev/null/new') cannot be written"),
        ("evaluate {tmp}/none.ckpt", "there is no checkpoint {tmp}/none.ckpt"),
        ("compare --at layer7 --out {tmp}/new", "`at` (='layer7') matches no module of CifarResNet"),
        ("cost saccade:cifar_resnet(depth=8) --at fc --attention se", "'fc' does not give a map of shape (B, C, H, W)"),
        ("cost saccade:cifar_resnet(depth=8) --at *.bn1 --attention aaconv", "'layer1.0.bn1' is a BatchNorm2d"),
        ("compare --jobs 0 --out {tmp}/new", "`jobs` (=0) must be an integer of at least 1"),
        ("compare --margin 0 --out {tmp}/new", "`margin` (=0.0) must be a number from"),
        ("compare --seeds , --out {tmp}/new", "`seeds` (=[]) must be a count of at least 1"),
        ("compare --start later --out {tmp}/new", "`start` (='later') must be one of 'paper', 'identity'"),
    ],
)
def test_one_message_and_status_2(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["saccade", *words.format(tmp=tmp_path).split(" ")])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    error = capsys.readouterr().err
    assert message.format(tmp=tmp_path) in error
    assert error.startswith("saccade: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", ["compare --epochs x", "explain", "compare --depth 3"])
def test_what_cannot_be_parsed_has_status_2_too(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["saccade", *words.split(" ")])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "Error" in capsys.readouterr().err
