"""Files of EfficientNets with the names of the package efficientnet-pytorch (L. Melas-Kyriazi, 2019), as timm names the tensors."""

import re
from collections.abc import Iterable, Mapping

STEM = "_conv_stem.weight"  # in every such file, and in no file of another library
WHOLE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}  # not expanded
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
BLOCK = re.compile(r"_blocks\.(\d+)\.([^.]+)\.(.+)")


def timm_names(file: Mapping[str, str], model: Iterable[str]) -> dict[str, str]:
    """
    Return ``file`` with timm's names as keys; {} for a file with other names. ``model``: the names of the model's tensors, whose
    blocks "blocks.<stage>.<number>" are counted through in the file.
    """
    if STEM not in file:
        return {}
    found = {
        tuple(map(int, one.groups())) for name in model if (one := re.match(r"blocks\.(\d+)\.(\d+)\.", name))
    }
    paths = [f"blocks.{stage}.{number}" for stage, number in sorted(found)]
    expanded = {one[1] for name in file if (one := BLOCK.fullmatch(name)) and one[2] == "_expand_conv"}
    names: dict[str, str] = {}
    for name, value in file.items():
        if (block := BLOCK.fullmatch(name)) is None:
            layer, _, rest = name.partition(".")
            names[f"{WHOLE.get(layer, layer)}.{rest}"] = value
        elif int(block[1]) < len(paths):
            layers = (EXPANDED if block[1] in expanded else FIRST) | SQUEEZE
            names[f"{paths[int(block[1])]}.{layers.get(block[2], block[2])}.{block[3]}"] = value
        else:
            names[name] = value
    return names
