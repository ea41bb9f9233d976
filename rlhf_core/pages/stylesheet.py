"""The look of the report: one column that reads well in a narrow pane, on paper and on a phone."""

STYLESHEET = """
:root { color-scheme: light; --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --wash: #f8fafc;
  --good: #15803d; --bad: #b91c1c; --open: #b45309; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 24px 0 6px; }
p { margin: 8px 0; max-width: 46em; }
code { font: .9em ui-monospace, "SF Mono", Menlo, "Liberation Mono", monospace;
  overflow-wrap: anywhere; }
.soft, figcaption, small { color: var(--soft); }
.note { background: #fffbeb; border-left: 4px solid #d97706; padding: 10px 14px; margin: 16px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px;
  margin: 20px 0 8px; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px 11px;
  background: var(--wash); }
.tile b { display: block; font-size: 24px; line-height: 1.3; font-weight: 650;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); font-size: 12.5px;
  vertical-align: bottom; line-height: 1.25; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
td small { display: block; font-size: 11.5px; line-height: 1.2; }
tr.ours td { background: #eff6ff; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
svg { vertical-align: middle; }
ul.findings { list-style: none; padding: 0; margin: 12px 0; }
ul.findings li { display: grid; grid-template-columns: 92px 1fr; padding: 9px 0;
  border-bottom: 1px solid var(--line); }
ul.findings strong { font-weight: 600; }
ul.findings span.figures { display: block; color: var(--soft); font-size: 13.5px; }
.verdict { font-size: 12px; font-weight: 650; padding-top: 2px; }
.yes { color: var(--good); } .no { color: var(--bad); } .unknown { color: var(--open); }
figure { margin: 18px 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: 13px; margin-top: 6px; }
article { border: 1px solid var(--line); border-radius: 10px; margin: 16px 0; overflow: hidden;
  break-inside: avoid; }
article > header { background: var(--wash); padding: 10px 14px;
  border-bottom: 1px solid var(--line); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: 1px; background: var(--line); }
.answer { background: #fff; padding: 10px 14px 12px; min-width: 0; }
.answer h4 { font-size: 12.5px; margin: 0 0 4px; display: flex; flex-wrap: wrap; gap: 2px 10px;
  align-items: baseline; }
.answer h4 small { font-weight: 400; font-variant-numeric: tabular-nums; }
.answer .text { font-size: 14px; }
.answer.wide { grid-column: 1 / -1; }
details summary { cursor: pointer; color: #1d4ed8; margin: 12px 0 0; }
dl { display: grid; grid-template-columns: 190px 1fr; gap: 8px 16px; font-size: 13.5px; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
@media (max-width: 600px) {
  main { padding: 20px 14px 48px; }
  .answers, dl { grid-template-columns: 1fr; }
  dd { margin-bottom: 6px; }
  ul.findings li { grid-template-columns: 1fr; }
}
@media print { main { max-width: none; } .scroll { overflow: visible; } }
"""
