"""Ask a running ``unicuco serve``: python examples/ask_service.py PROFILE '{"sparsity": 0.25}' [URL]."""

import json
import sys
import urllib.request

profile, request = sys.argv[1], json.loads(sys.argv[2])
url = (sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8000") + "/v1/strategies"
body = json.dumps({"profile": profile, "request": request}).encode()
asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - the user's own URL
with urllib.request.urlopen(asked) as answer:  # noqa: S310
    strategy = json.load(answer)
print(f"{strategy['bytes']:,} bytes, divergence {strategy['divergence']['mean']:.4f}, units {strategy['units']}")
