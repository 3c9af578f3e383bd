"""`python -m crisper.recorder NODE`: started by a worker, never by hand."""

from crisper.recorder.process import main

main()
