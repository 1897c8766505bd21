"""Page: sections of text, tables and charts become one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root{--ground:#f6f7f9;--card:#fff;--ink:#1b1f27;--soft:#5d6675;--line:#e3e6eb;--grid:#eceef2;
--on:#e07b1a;--off:#2f6fe0;--c1:#3366cc;--c2:#dd7a1f;--c3:#1f9e77;--c4:#c2417c;--c5:#8a5ccf;--c6:#a98307;--c7:#2a9db5;
--c8:#6b7280}
@media(prefers-color-scheme:dark){:root{--ground:#0f1217;--card:#171b22;--ink:#e6e9ef;--soft:#98a2b3;--line:#2a303b;
--grid:#232933;--on:#f59a3c;--off:#5b95ff;--c1:#7aa5ff;--c2:#f2a154;--c3:#4fcf9f;--c4:#f07bb0;--c5:#b794f6;--c6:#e0bd3c;
--c7:#5fcde4;--c8:#a3acba}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:40px 0 12px;letter-spacing:-.005em}
h3{font-size:14px;margin:0 0 2px;font-weight:600}
p{margin:0 0 10px}.soft,figcaption{color:var(--soft);font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:14px 16px}.tile b{display:block;font-size:24px;line-height:1.25;font-weight:650;letter-spacing:-.01em;
font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
.card{padding:16px 18px;margin:0 0 14px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px;margin:0 0 14px}
.pair>.card{margin:0}
figure{margin:0}svg{display:block;width:100%;height:auto;margin-top:8px}
svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}svg .label{fill:var(--soft)}
.grid,.tick{stroke:var(--grid);stroke-width:1}.base{stroke:var(--soft);stroke-width:1;stroke-opacity:.6}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.dot{stroke:var(--card);stroke-width:1.5}.track{fill:var(--grid)}
img,.scene{display:block;max-width:100%;width:100%;height:auto;border-radius:6px;margin-top:8px;background:#0d1016}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft);margin-top:4px}
.legend i,td i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.scroll{overflow:auto;max-height:480px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;position:sticky;top:0;background:var(--card)}
th.name,td.name{text-align:left}
tr:last-child td{border-bottom:0}tr.total td{font-weight:650}
dl{display:grid;grid-template-columns:minmax(120px,max-content) 1fr;gap:6px 20px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.note{border-left:3px solid var(--on);padding:2px 0 2px 12px;margin:0 0 10px}
a{color:var(--off)}footer{margin-top:40px;color:var(--soft);font-size:13px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media print{body{background:#fff}.scroll{max-height:none}.card,.tile{break-inside:avoid}}
"""


def page(title: str, subtitle: str, body: Sequence[str]) -> str:
    """A whole HTML document. title and subtitle are plain text, body is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f'<body><main><header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>\n'
        + "\n".join(body)
        + "\n<footer>Made by spiketrack.</footer></main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what belongs under it."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """The few numbers that matter most: (value, what it is)."""
    items = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(what)}</span></div>' for v, what in values)
    return f'<div class="tiles">{items}</div>'


def figure(title: str, content: str, caption: str = "", legend: Sequence[tuple[str, str]] = ()) -> str:
    """A chart in a card; legend: (name, colour)."""
    keys = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in legend)
    keys = f'<div class="legend">{keys}</div>' if keys else ""
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<figure class="card">{head}{note}{keys}{content}</figure>'


def pair(*cards: str) -> str:
    """Cards, or stacks of cards, side by side where the window is wide enough."""
    return f'<div class="pair">{"".join(cards)}</div>'


def facts(values: Mapping[str, object]) -> str:
    """Names and values as a list in a card."""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items())
    return f'<div class="card"><dl>{rows}</dl></div>'


def note(text: str) -> str:
    """A sentence that the reader should not miss."""
    return f'<p class="note">{escape(text)}</p>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    colours: Sequence[str] = (),
    *,
    names: int = 1,
    totals: int = 0,
) -> str:
    """A table in a card; colours: a mark before the first cell of each row.

    The first `names` columns hold words and stand to the left, the others to the right. The last `totals` rows stand
    out.
    """
    align = [' class="name"' if k < names else "" for k in range(len(head))]
    lines = []
    for i, row in enumerate(rows):
        mark = f'<i style="background:{colours[i]}"></i>' if i < len(colours) and colours[i] else ""
        cells = "".join(f"<td{align[k]}>{mark if k == 0 else ''}{escape(cell)}</td>" for k, cell in enumerate(row))
        lines.append(f'<tr class="total">{cells}</tr>' if i >= len(rows) - totals else f"<tr>{cells}</tr>")
    heads = "".join(f"<th{align[k]}>{escape(name)}</th>" for k, name in enumerate(head))
    return (
        f'<div class="card scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
