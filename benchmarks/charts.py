"""Charts as SVG, with nothing but the standard library: lines over a logarithmic or linear axis, bars of parts, tables.

A chart's colours are CSS classes (s0, s1, …) that benchmarks/report defines for light and dark pages.
"""
import html
import math

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 46
SERIES = 6  # colours


def text(x, y, content, anchor="start", kind="label", rotate=None):
    turn = f' transform="rotate({rotate} {x:.1f} {y:.1f})"' if rotate is not None else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{turn}>{html.escape(str(content))}</text>'


def short(value):
    """1234567 as 1.23M; 0.00123 as 0.00123."""
    if value == 0:
        return "0"
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def size(value):
    """Bytes as nccl-tests has them."""
    for unit, name in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


class Axis:
    """Maps numbers to places and chooses where it has ticks."""

    def __init__(self, values, begin, end, logarithmic=False, zero=False, ticks=None):
        values = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not logarithmic)] or [1]
        self.begin, self.end, self.logarithmic = begin, end, logarithmic
        self.low, self.high = min(values), max(values)
        if logarithmic:
            self.low, self.high = self.low / 1.15, self.high * 1.15
        else:
            self.low = 0 if zero else self.low
            self.high += 0.08 * (self.high - self.low) or 1
        self.ticks = ticks or (self.decades() if logarithmic else self.steps())

    def place(self, value):
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def decades(self):
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first < 3 else (1,)
        ticks = [f * 10.0 ** e for e in range(first, last + 1) for f in factors]
        return [t for t in ticks if self.low <= t <= self.high]

    def steps(self):
        raw = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * f for f in (1, 2, 2.5, 5, 10) if unit * f >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, int(math.floor(self.high / step + 1e-9)) + 1)]


def frame(body, height=HEIGHT, label=""):
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>')


def grid(x, y, name_x, name_y, write_x, write_y):
    body = []
    for tick in y.ticks:
        place = y.place(tick)
        body.append(f'<line x1="{LEFT}" y1="{place:.1f}" x2="{WIDTH - RIGHT}" y2="{place:.1f}" class="grid"/>')
        body.append(text(LEFT - 8, place + 4, write_y(tick), "end"))
    last = -1e9
    for tick in x.ticks:
        place = x.place(tick)
        if place - last >= 34:
            body.append(text(place, HEIGHT - BOTTOM + 18, write_x(tick), "middle"))
            last = place
    body.append(f'<line x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{HEIGHT - BOTTOM}" class="axis"/>')
    body.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, name_x, "middle", "name"))
    body.append(text(14, (TOP + HEIGHT - BOTTOM) / 2, name_y, "middle", "name", -90))
    return body


def legend(names):
    if len(names) < 2:
        return ""
    keys = (f'<span class="key"><i class="b{i % SERIES}"></i>{html.escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="legend">{"".join(keys)}</div>'


def lines(title, series, name_x, name_y, log_x=False, log_y=False, write_x=short, write_y=short, ideal=None):
    """series: {name: [(x, y, low, high)]}; low and high (may be None) become a band. ideal: a list of (x, y), dashed."""
    points = [p for line in series.values() for p in line]
    xs = sorted({p[0] for p in points})
    ticks = xs if len(xs) <= 12 else None
    x = Axis(xs, LEFT + 10, WIDTH - RIGHT - 10, log_x, ticks=ticks)
    y = Axis([v for p in points for v in p[1:]] + [v for _, v in ideal or []], HEIGHT - BOTTOM, TOP, log_y, zero=not log_y)
    body = grid(x, y, name_x, name_y, write_x, write_y)
    if ideal:
        path = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in ideal)
        body.append(f'<polyline points="{path}" class="ideal"/>')
    for i, (name, line) in enumerate(series.items()):
        kind = i % SERIES
        band = [p for p in line if p[2] is not None]
        if len(band) > 1:
            upper = [f"{x.place(p[0]):.1f},{y.place(p[3]):.1f}" for p in band]
            lower = [f"{x.place(p[0]):.1f},{y.place(p[2]):.1f}" for p in reversed(band)]
            body.append(f'<polygon points="{" ".join(upper + lower)}" class="band f{kind}"/>')
        path = " ".join(f"{x.place(p[0]):.1f},{y.place(p[1]):.1f}" for p in line)
        body.append(f'<polyline points="{path}" class="line s{kind}"/>')
        for p in line:
            spread = f" ({write_y(p[2])} to {write_y(p[3])})" if p[2] is not None else ""
            tip = html.escape(f"{name}, {write_x(p[0])}: {write_y(p[1])}{spread}")
            body.append(f'<circle cx="{x.place(p[0]):.1f}" cy="{y.place(p[1]):.1f}" r="4" class="dot f{kind}">'
                        f'<title>{tip}</title></circle>')
    return figure(title, legend(list(series)) + frame(body, label=title))


def parts(title, rows, unit, write=short):
    """rows: {name: {part: value}}: one bar each, its parts one after the other."""
    names = list(dict.fromkeys(part for row in rows.values() for part in row))
    height = 30 * len(rows) + 44
    left = 12 + max(7 * len(str(name)) for name in rows)
    most = max(sum(max(v, 0) for v in row.values()) for row in rows.values()) or 1
    x = Axis([most], left, WIDTH - RIGHT - 30, zero=True)
    body = []
    for tick in x.ticks:
        body.append(f'<line x1="{x.place(tick):.1f}" y1="4" x2="{x.place(tick):.1f}" y2="{height - 38}" class="grid"/>')
        body.append(text(x.place(tick), height - 22, write(tick), "middle"))
    for number, (name, row) in enumerate(rows.items()):
        top, start = 8 + 30 * number, 0.0
        body.append(text(left - 8, top + 14, name, "end"))
        for part, value in row.items():
            if value <= 0:
                continue
            begin, end = x.place(start), x.place(start + value)
            start += value
            tip = html.escape(f"{name}, {part}: {write(value)} {unit}")
            body.append(f'<rect x="{begin:.1f}" y="{top}" width="{max(end - begin - 2, 0.5):.1f}" height="20" rx="2" '
                        f'class="f{names.index(part) % SERIES}"><title>{tip}</title></rect>')
    body.append(text((left + WIDTH - RIGHT) / 2, height - 5, unit, "middle", "name"))
    return figure(title, legend(names) + frame(body, height, title))


def figure(title, content):
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{content}</figure>"


def tiles(values):
    """values: {name: text}."""
    cells = (f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
             for name, value in values.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(head, rows):
    """Text on the left, numbers on the right."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines_ = ("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<details><summary>Table</summary><table><tr>{cells}</tr>{"".join(lines_)}</table></details>'
