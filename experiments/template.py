"""The report's page, and how it looks on a screen, a small one, and paper."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf7;--card:#fff;--ink:#20242a;--soft:#606873;
--rule:#e2dfd8;--link:#2a5d86;--paper:#fff;--holds:#1f7048;--near:#856000;--wrong:#b0331e;
--sketch:#76468f;--metal:#2a5d86;--data:#606873;--todo:#cfcbc2}
@media screen and (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1b1f24;--ink:#d9dde3;
--soft:#99a2ad;--rule:#2e343b;--link:#8bbce2;--paper:#f4f2ee;--holds:#6cc79b;--near:#dcb45c;
--wrong:#f28d78;--sketch:#c9a0e2;--metal:#8bbce2;--data:#99a2ad;--todo:#4a515a}}
.v-reproduces{--v:var(--holds)}.v-approximately{--v:var(--near)}
.v-document-wrong,.v-differs{--v:var(--wrong)}.v-illustrative-random{--v:var(--sketch)}
.v-hardware-fact{--v:var(--metal)}.v-needs-data{--v:var(--data)}.v-todo{--v:var(--todo)}
*{box-sizing:border-box}
html{scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:88rem;padding:0 1.5rem 4rem;background:var(--bg);color:var(--ink);
font:1.0625rem/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif;
display:grid;grid-template:auto auto 1fr/15rem minmax(0,1fr);gap:0 3rem}
h1,h2,h3,nav,aside,th,dl,.badge,.source,.score ul,summary,.article,figcaption,.stamp,small,
.none,.expected,footer{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
a:focus-visible,input:focus-visible,summary:focus-visible,.paper:focus-visible{
outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--card);
padding:.5rem 1rem;z-index:2}
header,main,footer{grid-column:2}
header{padding-top:3.5rem}
h1{font-size:clamp(1.7rem,4vw,2.6rem);line-height:1.12;letter-spacing:-.02em;margin:0 0 1rem;
text-wrap:balance}
.lead{font-size:1.2rem;max-width:42rem;margin:0 0 1rem;text-wrap:pretty}
h2{font-size:1.6rem;letter-spacing:-.015em;line-height:1.2;margin:4.5rem 0 .75rem;
padding-top:1.25rem;border-top:1px solid var(--rule);text-wrap:balance}
h3{font-size:1.05rem;margin:2.5rem 0 .25rem;line-height:1.3}
h3 small{color:var(--soft);font-weight:400}
p{max-width:42rem;margin:.4rem 0 1rem;text-wrap:pretty}
code,pre{font:.86em/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace;
overflow-wrap:anywhere}
pre{white-space:pre-wrap;margin:.2rem 0}
.spaced{white-space:pre-wrap}
aside{grid-area:1/1/span 3;font-size:.86rem;line-height:1.4}
aside>div{position:sticky;top:0;max-height:100vh;overflow-y:auto;padding:3.5rem 0 2rem}
nav ol{list-style:none;margin:0;padding:0}nav li{display:flex;gap:.5rem;
justify-content:space-between;padding:.22rem 0}
#code pre{padding:.7rem;background:var(--card);border:1px solid var(--rule);border-radius:6px}
nav a{color:inherit;text-decoration:none}nav a:hover{text-decoration:underline}
nav small{color:var(--soft);font-variant-numeric:tabular-nums;font-size:.78rem}
.empty{color:var(--soft)}
fieldset{border:0;border-top:1px solid var(--rule);margin:1.25rem 0 0;padding:.9rem 0 0}
legend{float:left;width:100%;font-weight:600;margin-bottom:.35rem}
legend~*{clear:left}
label{display:flex;gap:.5rem;padding:.2rem 0;align-items:baseline;cursor:pointer}
label:last-child{margin-top:.5rem}
input{accent-color:var(--link);margin:0;transform:translateY(1px);flex:none}
.score{margin:1.4rem 0}.score h3{margin:0 0 .4rem;font-size:1rem}
.bar{display:flex;gap:2px;height:.8rem;border-radius:3px;overflow:hidden;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.bar i{background:var(--v);min-width:2px}
i.v-differs,.score li.v-differs::before{background:repeating-linear-gradient(135deg,
var(--v) 0 3px,transparent 3px 5px)}
.score ul{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;list-style:none;padding:0;
margin:.45rem 0 0;font-size:.84rem;color:var(--soft)}
.score li::before{content:"";display:inline-block;width:.6rem;height:.6rem;border-radius:2px;
background:var(--v);margin-right:.4rem}
.score b{color:var(--ink);font-variant-numeric:tabular-nums}
.article{font-size:.72rem;color:var(--soft);border:1px solid var(--rule);border-radius:3px;
padding:.05rem .35rem;white-space:nowrap}
.wrong{padding:0;list-style:none;margin:.5rem 0;
columns:24rem 2;column-gap:2.5rem}
.wrong li{break-inside:avoid;margin:0 0 .9rem;padding-left:.8rem;border-left:3px solid var(--v)}
.wrong a{color:inherit}
.versus{display:grid;grid-template-columns:auto 1fr;gap:0 .7rem;margin:.25rem 0}
.versus dt{grid-column:1}.versus dd{grid-column:2;text-align:left;margin:0}
.wrong div{font-size:.92rem;color:var(--soft)}
.figures{display:flex;flex-wrap:wrap;gap:1.25rem;margin:1rem 0 1.5rem}
figure{margin:0;flex:1 1;max-width:46rem;min-width:0}
.paper{background:var(--paper);border:1px solid var(--rule);border-radius:6px;padding:.75rem;
color:#20242a}
.paper svg{display:block;max-width:100%;height:auto;margin:0 auto;overflow:visible}
.paper svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",
sans-serif!important}
figcaption{font-size:.84rem;line-height:1.45;color:var(--soft);margin-top:.5rem}
table.claims{width:100%;border-collapse:collapse;table-layout:fixed;margin:1rem 0;
background:var(--card);border:1px solid var(--rule);border-radius:6px}
.claims th{font-size:.74rem;font-weight:600;color:var(--soft);text-align:left;
padding:.5rem .7rem}
.claims th:nth-child(1){width:31%}.claims th:nth-child(2){width:13%}
.claims th:nth-child(4){width:8.2rem}.claims th:nth-child(5){width:17%}
.missed th:nth-child(n){width:19%}.missed th:nth-child(4){width:36%}
.claims td[data-label=Verdict]{padding-right:0}
.claims td{padding:.7rem;vertical-align:top;border-top:1px solid var(--rule);
overflow-wrap:anywhere;font-size:.94rem;line-height:1.45}
.claims tr:target{background:color-mix(in srgb,var(--link) 9%,transparent)}
.note{margin:.45rem 0 0;padding-left:.7rem;border-left:3px solid var(--v);font-size:.9rem;
color:var(--soft)}
.source{margin-top:.5rem;font-size:.74rem;color:var(--soft);line-height:1.6}
.source a{color:inherit;text-decoration-color:var(--rule)}.source code{display:block;
font-size:.72rem}
dl{margin:0;font-size:.82rem;line-height:1.4;font-variant-numeric:tabular-nums}
dl>div{display:flex;flex-wrap:wrap;gap:0 .5rem;justify-content:space-between;
padding:.12rem 0}
dl>div+div{border-top:1px dotted var(--rule)}
dt{color:var(--soft)}dd{margin:0 0 0 auto;text-align:right;min-width:0}
dd dl{margin-left:.5rem}
.matrix{display:inline-grid;grid-template-columns:repeat(var(--columns),auto);gap:0 .6rem;
padding:.1rem .45rem;position:relative;text-align:right;font-size:.74rem;white-space:nowrap}
.matrix::before,.matrix::after{content:"";position:absolute;top:0;bottom:0;left:0;width:.25rem;
border:1px solid var(--soft);border-right:0}
.matrix::after{left:auto;right:0;border:1px solid var(--soft);border-left:0}
dd pre{text-align:left}
.badge{display:inline-block;font-size:.72rem;font-weight:600;line-height:1.3;color:var(--v);
overflow-wrap:normal;padding:.12rem .4rem;border-radius:4px;
background:color-mix(in srgb,var(--v) 13%,transparent)}
.v-differs .badge{background:var(--v);color:var(--card)}
.expected{margin-top:.5rem;padding-top:.4rem;border-top:2px solid var(--v);font-size:.78rem;
color:var(--v)}
.failed{border-left:3px solid var(--wrong);padding-left:.8rem}
.none{color:var(--soft);font-size:.82rem}
.flops>div{display:flex;flex-direction:column-reverse}
.flops dt{font-size:.72rem}.flops dd{margin:0;text-align:left;white-space:nowrap}
.changed{margin:.3rem 0 0;font:.72rem/1.4 system-ui,sans-serif}
.changed summary{font-size:inherit}
details{margin:1rem 0;color:var(--soft);font-size:.94rem}summary{cursor:pointer;
font-size:.86rem}details li{margin:.25rem 0}
.stamp{font-size:.8rem;color:var(--soft)}
footer{margin-top:5rem;border-top:1px solid var(--rule);padding-top:1rem;font-size:.86rem;
color:var(--soft)}
footer dl{columns:2;max-width:42rem;column-gap:3rem}footer dl>div{break-inside:avoid}
@media screen and (max-width:78rem){body{display:block;padding:0 1rem 3rem}
header{padding-top:1.5rem}
aside>div{position:static;max-height:none;padding:1rem 0;border-bottom:1px solid var(--rule)}
nav ol{columns:2 16rem;column-gap:2rem}nav li{break-inside:avoid;padding:.3rem 0}}
@media screen and (max-width:60rem){
.claims thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.claims,.claims tbody,.claims tr,.claims td{display:block;width:auto}
.claims tr+tr{border-top:1px solid var(--rule)}.claims tr{padding:.7rem .8rem}
.claims td{border:0;padding:.25rem 0}.claims .blank{display:none}
.claims td:not(:first-child)::before{content:attr(data-label);display:block;
font:600 .72rem/1.6 system-ui,sans-serif;color:var(--soft)}
.claims td[data-label=Verdict]::before{display:none!important}
figure{flex-basis:100%!important}.paper{overflow-x:auto}
.paper svg{max-width:none;width:max(32rem,100%)}footer dl{columns:1}.wrong{columns:auto}}
@media print{html{font-size:9pt}body{display:block;max-width:none;padding:0;
--bg:#fff;--card:#fff;--ink:#000}aside,.skip,#code{display:none}
details::details-content{content-visibility:visible;block-size:auto}
h2{margin-top:2rem}h2,h3,.chapter p,thead{break-after:avoid}.figures{display:block}
figure{margin-bottom:1rem}tr,figure{break-inside:avoid}
.badge{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<title>Five articles on the linear algebra of AI, claim by claim</title>
<style>{style}</style>
</head>
<body>
<a class=skip href="#story">Skip to the story</a>
<header>
<h1>Five articles on the linear algebra of AI, claim by claim</h1>
<p class=lead>{lead}</p>
</header>
<aside><div>
<nav aria-label="Chapters"><ol>
<li><a href="#score">Score</a></li>
<li><a href="#wrong">Where the articles are wrong</a></li>
<li><a href="#missed">Within tolerance, and not</a></li>
{contents}
<li><a href="#code">The functions that did it</a></li>
</ol></nav>
<form><fieldset><legend>Show claims of</legend>
{filters}
</fieldset></form>
</div></aside>
<main>
<section id=score><h2>Score</h2>
{scores}
</section>
<section id=wrong><h2>Where the articles are wrong</h2>
{wrong}
</section>
<section id=missed><h2>Within tolerance, and not</h2>
{missed}
</section>
<div id=story>
{chapters}
</div>
<section id=code><h2>The functions that did it</h2>
<p>What rows name, as it stands in this version; other libraries’ functions are left out.</p>
{code}
</section>
</main>
<footer>
<p>Each value was computed by the functions named beside it and compared with an independent
float64 computation. A FLOP is one floating-point operation, so that a multiply-add is two:
<b>closed form</b> is the textbook formula, <b>lowered</b> counts the program that JAX handed to
the compiler, <b>compiled</b> the one that runs. XLA’s own count stands beside them where it
differs by more than 1 %: it has rules of its own, and counts a loop’s body once. Full values
are in <code>claims.json</code>, each under its claim’s name.</p>
<p>The seed draws the random examples of fewer than half of the experiments. The others have
none, or hold to a figure that hangs on one draw, and keep that draw’s own seed: they do not
change with this one.</p>
<dl>{stamp}</dl>
</footer>
</body>
</html>
"""
