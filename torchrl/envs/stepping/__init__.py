"""Stepping: rollouts, compiled specs, partial resets, deferred entries, validation.

One step of a rollout, as ``Stepper`` in ``rollout.py`` takes it with flat records::

    policy(root)                              # write the action
    compiled.check_action(root)               # at the first step
    result = env.result_of(root)              # _step, its flags completed or trusted
    roots.append(root)
    results.append(result)
    root = next_root(root, result, ...)       # the result without its reward, and the action
    if compiled.ended(result):                # any episode
        root = env.reset_entries(root)        # the rows that ended
    ...
    batch = stack_flat_records(roots)
    batch.set("next", stack_flat_records(results))
    for entry in deferred:                    # entries that no step reads
        entry.write(batch, ...)

``compiled_specs.py`` holds what is decided once from the specs, ``partial_reset.py`` the rows that
are reset, ``deferred.py`` the entries that are written after the last step, ``validation.py`` the
checks of inputs and results, ``reused_memory.py`` the copies of memory that is overwritten, and
``compiled_hooks.py`` hooks under ``torch.compile``.
"""
