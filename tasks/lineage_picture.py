"""A lineage as an SVG picture: what was made later stands lower, arrows say what went into what.

Layers are longest paths, so every arrow points down. One that skips a layer would disappear behind
the boxes between, so it runs in a lane of its own at the right; all that one artifact gives to
later layers shares its lane.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tasks.lineage import Lineage, Node, changed_rules, code_text, source_facts
from tasks.pages import SHOWN_DIGEST

BOX_WIDTH = 470
LINE_HEIGHT = 17
GAP = 28
LAYER_GAP = 42
FIRST_LANE = 120
"""From the boxes' right edge to the first lane: room for the names of the roles."""

LANE_GAP = 22
SHOWN_LINE = 60
"""Characters that fit the width of a box."""

SHOWN_FILES = 6
"""Raw files that are named in their box; the page lists all of them."""

HIGHLIGHTS: Mapping[str, tuple[str, ...]] = {
    "data": ("split_by", "validation_share", "evaluation_share"),
    "sft": ("learning_rate", "epochs", "batch_size"),
    "reward_model": ("learning_rate", "epochs", "batch_size"),
    "ppo": ("learning_rate", "kl_coef", "updates"),
    "evaluation": ("prompts", "best_of_n"),
}
"""Settings that are shown in the picture; the page below it lists all."""


@dataclass(frozen=True)
class Box:
    """One node of the picture; `kind` is a stage or `raw`."""

    key: str
    kind: str
    title: str
    lines: tuple[str, ...]
    anchor: str
    state: str = "here"
    """`here`, `absent` or `damaged`."""

    @property
    def height(self) -> int:
        """Room for the title and the lines."""
        return 34 + LINE_HEIGHT * len(self.lines)


@dataclass(frozen=True)
class Edge:
    """Box `source` went into box `target` as `role`."""

    source: str
    target: str
    role: str


@dataclass(frozen=True)
class Place:
    """Where a box stands."""

    x: int
    y: int
    layer: int


def lineage_svg(lineage: Lineage) -> str:
    """The picture; its colours come from the page's stylesheet."""
    boxes, edges = _boxes_and_edges(lineage)
    places = _places(boxes, edges)
    lanes = _lanes(boxes, edges, places)
    right = max(place.x for place in places.values()) + BOX_WIDTH
    width = right + FIRST_LANE + LANE_GAP * max(len(lanes), 1)
    height = max(places[key].y + box.height for key, box in boxes.items()) + 12
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="Lineage">'
        ),
        (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" '
            'fill="context-stroke"/></marker></defs>'
        ),
        *_arrows(boxes, edges, places, lanes=lanes, right=right),
        *(_drawn(box, places[box.key]) for box in boxes.values()),
        "</svg>",
    ]
    return "\n".join(parts)


def anchor_of(node: Node) -> str:
    """The id of a node's section on the page."""
    return f"{node.stage}-{node.digest[:SHOWN_DIGEST]}"


def _boxes_and_edges(lineage: Lineage) -> tuple[dict[str, Box], list[Edge]]:
    boxes: dict[str, Box] = {}
    edges: list[Edge] = []
    for node in lineage.in_order:
        for raw in _raw_boxes(node):
            boxes[raw.key] = raw
            edges.append(Edge(raw.key, node.digest, ""))
        boxes[node.digest] = _artifact_box(node)
        edges += [Edge(digest, node.digest, role) for role, digest in node.inputs.items()]
    return boxes, edges


def _raw_boxes(node: Node) -> Iterator[Box]:
    anchor = anchor_of(node)
    if node.sources:
        lines = [source_facts(source) for source in node.sources[:SHOWN_FILES]]
        left = len(node.sources) - len(lines)
        lines += [f"and {left} more"] if left else []
        yield Box(f"raw-{node.digest}", "raw", "raw files", tuple(lines), anchor)
    fingerprint = node.provenance.get("fingerprint", {})
    model = fingerprint.get("settings", {}).get("model", {})
    if node.stage == "sft" and model.get("base"):
        content = fingerprint.get("inputs", {}).get(f"file:{model['base']}")
        revision = f"revision {model.get('revision') or 'not named'}"
        known = f"sha256 {content[:SHOWN_DIGEST]}" if content else revision  # a folder, or the hub
        line = f"{model['base']}, {known}"
        yield Box(f"base-{node.digest}", "raw", "base model", (line,), anchor)


def _artifact_box(node: Node) -> Box:
    title = f"{node.stage}  {node.digest[:SHOWN_DIGEST]}"
    if not node.provenance:
        line, state = ("damaged", "damaged") if node.path else ("not here", "absent")
        return Box(node.digest, node.stage, title, (line,), anchor_of(node), state)
    provenance = node.provenance
    settings = provenance["fingerprint"].get("settings", {}).get(node.stage, {})
    chosen = [name for name in HIGHLIGHTS.get(node.stage, ()) if settings.get(name) is not None]
    libraries = provenance.get("libraries", {})
    lines = [
        ", ".join(f"{name} {settings[name]}" for name in chosen),
        *(changed_rules(provenance) if node.stage == "data" else ()),
        f"seed {provenance['fingerprint']['seed']}, {code_text(provenance['code'])}",
        ", ".join(
            f"{name} {libraries[name]}"
            for name in ("torch", "transformers", "datasets")
            if name in libraries
        ),
        f"{provenance['ended_at']}, run {str(provenance['runs']['mlflow_run'])[:SHOWN_DIGEST]}",
        "DAMAGED" if node.fault else "",
    ]
    state = "damaged" if node.fault else "here"
    shown = tuple(line for line in lines if line)
    return Box(node.digest, node.stage, title, shown, anchor_of(node), state)


def _places(boxes: Mapping[str, Box], edges: Sequence[Edge]) -> dict[str, Place]:
    layers: dict[str, int] = {}
    for key in boxes:  # sources come before their targets
        below = [layers.get(edge.source, 0) + 1 for edge in edges if edge.target == key]
        layers[key] = max(below, default=0)
    rows: dict[int, list[str]] = defaultdict(list)
    for key, layer in layers.items():
        rows[layer].append(key)
    places: dict[str, Place] = {}
    y = 8
    for layer in sorted(rows):
        for column, key in enumerate(rows[layer]):
            places[key] = Place(8 + column * (BOX_WIDTH + GAP), y, layer)
        y += max(boxes[key].height for key in rows[layer]) + LAYER_GAP
    return places


def _lanes(
    boxes: Mapping[str, Box], edges: Sequence[Edge], places: Mapping[str, Place]
) -> dict[str, int]:
    """Lane of each artifact that gives to a layer further down; the latest has the innermost."""
    long = {edge.source for edge in edges if _skips(edge, places)}
    return {key: lane for lane, key in enumerate([key for key in boxes if key in long][::-1])}


def _skips(edge: Edge, places: Mapping[str, Place]) -> bool:
    return places[edge.target].layer - places[edge.source].layer > 1


def _arrows(
    boxes: Mapping[str, Box],
    edges: Sequence[Edge],
    places: Mapping[str, Place],
    *,
    lanes: Mapping[str, int],
    right: int,
) -> Iterator[str]:
    entries: dict[str, int] = defaultdict(int)
    by_source: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for edge in sorted(edges, key=lambda edge: lanes.get(edge.source, 0)):
        source, target = places[edge.source], places[edge.target]
        if not _skips(edge, places):
            x0, y0 = source.x + BOX_WIDTH // 2, source.y + boxes[edge.source].height
            x1, y1 = target.x + BOX_WIDTH // 2, target.y
            middle = (y0 + y1) // 2
            path = f"M{x0},{y0} C{x0},{middle} {x1},{middle} {x1},{y1 - 1}"
            label = (x1 + 8, y1 - 12)
        else:
            entries[edge.target] += 1
            x0, y0 = source.x + BOX_WIDTH, source.y + boxes[edge.source].height - 12
            x1 = target.x + BOX_WIDTH
            y1 = target.y + 6 + LINE_HEIGHT * entries[edge.target]
            lane = right + FIRST_LANE + LANE_GAP * lanes[edge.source]
            path = f"M{x0},{y0} H{lane} V{y1} H{x1 + 1}"
            label = (x1 + 14, y1 - 4)
        name = f'<text class="role" x="{label[0]}" y="{label[1]}">{escape(edge.role)}</text>'
        by_source[edge.source].append((path, name))
    for key, drawn in by_source.items():  # a halo parts a line from those that it crosses
        yield from (f'<path class="halo" d="{path}"/>' for path, _ in drawn)
        for path, name in drawn:
            kind = boxes[key].kind
            yield f'<path class="arrow {kind}" d="{path}" marker-end="url(#head)"/>{name}'


def _drawn(box: Box, place: Place) -> str:
    lines = [
        f'<text class="line" x="{place.x + 14}" y="{place.y + 42 + LINE_HEIGHT * number}">'
        f"{escape(_fitting(line))}</text>"
        for number, line in enumerate(box.lines)
    ]
    return "\n".join(
        [
            f'<a href="#{escape(box.anchor)}"><g class="box {box.kind} {box.state}">',
            f'<rect x="{place.x}" y="{place.y}" width="{BOX_WIDTH}" height="{box.height}" rx="6"/>',
            f'<rect class="stripe" x="{place.x}" y="{place.y}" width="5" height="{box.height}"/>',
            f'<text class="title" x="{place.x + 14}" y="{place.y + 22}">{escape(box.title)}</text>',
            *lines,
            "</g></a>",
        ]
    )


def _fitting(line: str) -> str:
    return line if len(line) <= SHOWN_LINE else f"{line[: SHOWN_LINE - 1]}…"
