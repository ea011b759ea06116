"""What a bug report needs, in one file: `prlctl support-bundle`.

``parts`` says what is collected, ``program`` runs each within bounds, ``secrets`` keeps out what is
nobody's business, ``bundle`` writes the file.
"""
