"""What keeps the object store whole: daemons that look at one device after another and put right what is not right.

Every daemon is a *pass* over this machine's devices. A pass

- may run at any time, beside requests and beside other passes, on any number of nodes at once: it uses the calls of
  `storage.Node`, in which the newest timestamp wins and a repeated call changes nothing;
- may be stopped or killed at any point; what it did stays, the next pass does the rest;
- asks little when nothing is to do: sums of whole partitions are compared before anything in them is looked at;
- never removes a copy before those that are to hold it have said that they do;
- says what it did in a report (`report`): a small JSON file that `altostack object status` and the node's own
  ``/recon`` read.

========================  =========================================================================
`objects`                 whole copies: pushed to where they are missing or older, handoffs given back
`fragments`               erasure-coded fragments: rebuilt from others, made durable, handoffs given back
`databases`               account and container databases: rows since the last time, else the whole file
`audit`                   reads what lies on disk and sets aside what is damaged
`deliver`                 updates that a node could not deliver at once; a container's numbers to its account
`expire`                  deletes objects whose X-Delete-At has come, from the queue ``.expiring_objects``
`reap`                    removes what a deleted account holds
`shard`                   splits containers that grew large and joins small shards
`reconcile`               objects that lie under another policy than their container's
`sync`                    sends changes of a container to another cluster (container sync)
`drives`                  devices that fail to read or write, or whose kernel log says so
`relink`                  links files to their new places while a ring's part power rises
`rings`                   newer rings fetched from the other nodes
========================  =========================================================================

What the daemons of two nodes say to each other beyond `storage.Node` are the calls of `upkeep`; `upkeep.near` answers
them on the node, `upkeep.Peer` asks them, in this process or over the node's HTTP.

What is promised, with W the quorum of a write (half of a policy's copies, rounded up; for erasure coding data + 1
fragments): a write that was acknowledged is on W devices, synced to disk. It is read back, byte for byte, while any of
these devices (for erasure coding: ``data`` of them) can be read, and again once they can. A read returns content that
was written and not a mixture; while copies differ, metadata that a POST set may come with older content. A read that
begins after a write was acknowledged returns that write's value or a later one whenever it compares copies (X-Newest,
and every read of fragments) and the devices that answer include one of the W; otherwise it may return an older value,
for as long as copies differ. After faults have healed and every daemon has made its passes, all copies are equal to the
newest acknowledged version or to a later one that was begun and not acknowledged; a deletion counts as a version, and
is remembered for ``reclaim_age``: a device that was away for longer must be emptied before it comes back.
"""

from __future__ import annotations
