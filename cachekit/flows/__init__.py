"""The multi-step stories, written once for threads and for asyncio: what happens when a read was not plainly fresh.

===============  ====================================================================================
``call.py``      the way of one call: judge the reply, then serve, refresh, fill, wait, or run alone
``refresh.py``   a stored value that is due: refresh it here, in the background, or for a while only
``caller.py``    how one call ends in the counts
``wait.py``      somebody else runs: wait for him, take over from him, or stop waiting
``fill.py``      run under a lease, store the result, and what becomes of the lease where that fails
``alone.py``     run without a lease, and store nothing
``many.py``       many calls, each with a run of its own; one window of reads
``batch.py``     many keys, one run of a loader
``together.py``  many of these stories at once: common windows, one run for all
``lease.py``     the lease, and the requests about it
``direct.py``    the direct verbs: all for asyncio, for threads those that are not written out for speed
``nearby.py``    the near tier: what goes in, and the question whether it has changed
``look.py``      look at entries without taking part: ``peek`` and ``explain``
``tell.py``      invalidations, of one entry and of all
``collect.py``   invalidations that are put off until a transaction ends
``abreast.py``   several of them at once, in common windows
``frames.py``    what the running function is inside of, and what it says and hears there
``marks.py``     what a result stands under beside its own generations: tags named in the run, calls inside
``boots.py``     what tells a server's CAS numbers from those that it gives after a restart
===============  ====================================================================================

A caller with a cold key goes through ``call``: it judges the reply, and then fills, waits for whoever does, or voids
what stands there and asks for the lease again. Whoever holds a lease goes through ``fill``: run the function, store
under the lease's CAS number, or give the lease back. Nobody stores without a CAS that he held before the function
began, so nothing newer is ever overwritten.

The lease: ``mg … N<stub>`` makes an empty item, the stub, and gives the W flag to exactly one caller; an invalidation
deletes the stub, and with it the CAS number that the fill under way would store under. See memcached's protocol.txt,
"Meta Get", and "Scaling Memcache at Facebook" (NSDI 2013) §3.2.1.
"""
