"""How loaded the machine is: floors at once against one floor. Parts whose contenders are no whole rounds are judged with it."""

import bars
import floor
import loads
from measure import side_by_side

TURNS = 3


def crowding(workers: int, quick: bool) -> float:
    """Return how many times as long as one floor of the convnet as many at once as workers take: 1 where the cores share nothing."""
    load = loads.by_name("mlp" if quick else "convnet", quick)
    made = {
        bars.FLOOR: floor.Floor(load, floor.FAST),
        bars.CEILING: floor.Floors(load, floor.FAST, workers),
    }
    try:
        times, _ = side_by_side(made, [], TURNS, bars.FLOOR, lambda text: None)
    finally:
        made[bars.CEILING].close()
    return times[bars.CEILING].to_floor
