"""An HTML page and a PDF, made by hand."""

from __future__ import annotations

PAGE = """<!DOCTYPE html>
<html><head><title>Shop</title><style>p {}</style></head>
<body>
<nav><a href="/">Home</a></nav>
<script>var x = "<p>no</p>";</script>
<main>
<h1>Pump &amp;
motor</h1>
<p>The pump runs <b>at</b> 230&nbsp;V.</p>
<!-- <p>old</p> -->
<h2>Service</h2>
<div>Oil it monthly.<br>Check the belt.</div>
<ul><li>one</li><li>two</li></ul>
<table><tr><th>Part</th><th>Price</th></tr>
<tr><td>Belt</td><td>12.50</td></tr></table>
<pre>make  clean
  all</pre>
</main>
<footer>Imprint</footer>
</body></html>
"""


def pdf_bytes(*pages: str) -> bytes:
    """Writes a PDF of one line a page; an empty page has none."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        drawn = f"BT /F1 12 Tf 72 720 Td ({escaped}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    body, places = b"%PDF-1.4\n", []
    for number, told in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{told}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + end.encode()
