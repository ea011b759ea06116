"""`prlctl bench moves` (T13): what planned moves of a busy session make somebody send again."""

from dataclasses import asdict

from prl.bench.run import Bench, Part
from prl.demo.stage import Options, Stage
from prl.demo.switchover import Moves, travel


def moves(bench: Bench) -> Part:
    """Labs of their own, one after the other: a download goes back and forth, then an upload."""
    part = Part("moves")
    runs, count = bench.rounds(1, 10), bench.rounds(3, 20)
    bench.narrate(f"{runs} times {count} planned moves of a download, and of an upload")
    found: list[dict[str, Moves]] = []
    for _ in range(runs):
        with Stage(Options(moves=count), lambda _: None) as stage:
            found.append({name: run.moves() for name, run in travel(stage).items()})
    for name in found[0]:
        one_way = [run[name] for run in found]
        part.facts[name] = {"moves": sum(one.done for one in one_way)} | {
            what: [asdict(one)[what] for one in one_way]
            for what in ("behind", "behind_without", "again", "again_without")
        }
        part.notes += [f"{name}: {trouble}" for one in one_way for trouble in one.troubles]
        if any(one.done < count for one in one_way):
            part.notes.append(f"{name}: not every move was done")
    every = [one for run in found for one in run.values()]
    part.figures |= {
        "t13_behind": float(sum(one.behind - one.behind_without for one in every)),
        "t13_again": float(sum(one.again - one.again_without for one in every)),
    }
    return part
