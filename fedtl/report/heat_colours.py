"""The colours of heat maps, and of the numbers in their cells."""

from matplotlib.colors import Colormap, LinearSegmentedColormap

INK_OF_NUMBERS = "#000000"
# Behind numbers: so light that black ones have a contrast of 4.5 in each cell, also after the filter of the dark scheme. Red and blue are
# those of ColorBrewer, which colour-blind readers tell apart; white is zero.
DIVERGING: Colormap = LinearSegmentedColormap.from_list("difference", ["#F4A582", "#ffffff", "#92C5DE"])
RISING: Colormap = LinearSegmentedColormap.from_list("share", ["#ffffff", "#92C5DE"])
# Of large maps, whose cells have no numbers.
STRONG: dict[str, Colormap] = {
    DIVERGING.name: LinearSegmentedColormap.from_list("difference", ["#D55E00", "#ffffff", "#0072B2"]),
    RISING.name: LinearSegmentedColormap.from_list("share", ["#ffffff", "#0072B2"]),
}
