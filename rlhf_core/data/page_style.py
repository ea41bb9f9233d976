"""The look of the data page beside the common stylesheet: bars, drawings, light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --accent: #1d4ed8; }
body { background: var(--paper); }
.yes, .no { font-weight: 650; }
.note { color: var(--ink); }
th { white-space: nowrap; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; }
figure.drawing { margin: 8px 0; max-width: 560px; }
figure.drawing svg { width: 100%; height: auto; }
figure.drawing text { fill: var(--soft); }
.key { margin-left: 10px; white-space: nowrap; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: 0 28px; }
.bars ul { list-style: none; margin: 0; padding: 0; font-size: 13.5px; }
.bars li { display: grid; grid-template-columns: minmax(0, 5fr) 4fr minmax(4.5em, auto);
  gap: 10px; padding: 3px 0; align-items: center; font-variant-numeric: tabular-nums; }
.bars li > :last-child { text-align: right; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar { background: var(--line); border-radius: 3px; height: 9px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
article > header dl { grid-template-columns: 46px 1fr; gap: 2px 10px; margin: 6px 0 0; }
article table td { text-align: left; vertical-align: top; white-space: normal; }
article table th { text-align: left; }
article table td:first-child, article table th:first-child { padding-left: 14px;
  white-space: normal; }
article .scroll { padding-bottom: 6px; }
.seen { overflow-wrap: anywhere; }
article table td:first-child { min-width: 9em; }
.field { overflow-wrap: normal; }
.columns + .scroll, .scroll + .scroll { margin-top: 18px; }
a, details summary { color: var(--accent); text-decoration: none; }
@media (max-width: 600px) {
  article > header dl { grid-template-columns: 46px 1fr; }
  th:first-child, td:first-child, td small { white-space: normal; }
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #a3adbb; --line: #333c4a; --wash: #1c222b; --paper: #12161c;
    --accent: #7aa5ff; --good: #4ade80; --bad: #f87171; --open: #fbbf24; }
  .note { background: #33280f; }
  figure.drawing line { stroke: var(--line); }
}
"""
