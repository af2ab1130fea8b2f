"""What an idle control plane costs: cold start, memory, processor."""

from __future__ import annotations

import time

from tests.stand import running


def main() -> None:
    """Print cold start to every API answering, PSS of each process, and idle processor use over 30 s."""
    starts = []
    for _ in range(3):
        with running("--simulate") as stand:
            starts.append(stand.seconds)
    with running("--simulate") as stand:
        time.sleep(5)
        before, began = stand.cpu_seconds(), time.monotonic()
        time.sleep(30)
        used = (stand.cpu_seconds() - before) / (time.monotonic() - began)
        sizes = stand.pss()
    print(f"cold start to every API answering: {', '.join(f'{s:.2f}' for s in [*starts, stand.seconds])} s")
    for name, size in sorted(sizes.items()):
        print(f"  {name:<12} {size:6.1f} MiB PSS")
    print(f"  {'all':<12} {sum(sizes.values()):6.1f} MiB PSS in {len(sizes)} processes")
    print(f"idle processor: {100 * used:.2f} % of a core")


if __name__ == "__main__":
    main()
