"""Where a client's files are read: a child process that can do next to nothing but compute.

``client.py`` is the worker's side, ``server.py`` forks the children. What a child may do is in ``files.py`` (Landlock),
``system_calls.py`` (seccomp), ``namespaces.py`` and ``limits.py``; ``strength.py`` says what this kernel has of it.
"""
