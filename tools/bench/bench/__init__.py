"""The parts of tools/bench/run. Each uses only those above it:

processes   starting programs, and ending all that was started
machine     what this machine is, and which of its cores are used for what
build       hotrow, the peers, and programs of others: built, installed, or missing
database    the one PostgreSQL that all who need one share
servers     hotrow and its peers: how each is started and filled
loads       wrk, redis-benchmark, pgbench and our own open load: how each is run, and what it has said
cases       what is measured
measure     servers in turn, rounds, and one result for each
targets     the ratios that hotrow is to reach
plot        SVG
report      benches/REPORT.md
main        arguments in, exit code out
"""
