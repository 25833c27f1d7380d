"""Measures pymirror beside nginx (same bytes, static files) and devpi-server, in one run.

Run as ``python -m bench``; nothing here is a test, and no figure is ever asserted.

- `settings`: how much of everything, full and quick.
- `data`: the generated distribution files, the same in every run.
- `client`: blocking HTTP, form encoding; `load`: wrk, or `fallback` where wrk is missing.
- `processes`: starting, watching and ending the servers by process id.
- `subjects`: what is common to everything measured; `pymirror`, `devpi`, `nginx`: each of them.
- `upstream`: a static index that the mirror indexes of the subjects read.
- `fill`: brings the data set into a subject through its upload API.
- `pages`, `files`, `writes`, `catchup`, `memory`: the measurements.
- `results`: samples, medians, ratios; `report`: tables, goals and the JSON file.
- `run`: the order of it all; `__main__`: the command line.
"""
