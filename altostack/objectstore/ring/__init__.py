"""Rings: which devices hold what.

A name's keyed hash gives its partition, the ring gives a partition's devices. `ring.Ring` is one ring in memory, read
from a file of a few megabytes (`sealed`) and never changed; `rings.FileRings` are those of a cluster, read anew when
their files change. `builder.Builder` makes them: it knows the devices, draws up what each should hold (`plan`) and
puts partitions there with the fewest moves (`place`). `survey` tells how good a ring is, `composite` makes one ring of
several builders. `altostack ring` is all of that on the command line.

Only the builder, `plan`, `place`, `survey` and `composite` need NumPy; who merely uses a ring does not load it.
"""
