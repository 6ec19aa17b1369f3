"""`maskbatch ui`: the page in the browser, on Gradio (extra `[ui]`). Nothing else imports this package.

start             checks before Gradio is imported, and serves the page
access            who may connect
app               the page and its server
brake             slows down failed passwords
gate              the requests that the server accepts
theme             colours and fonts
rendering         fills in the templates
picture           the tab for one picture
review            the tabs of a run: report, review, corrections
session           which reviewer judges which image; needs no browser
judgements        what reviewers have said so far
prefetch          reads the next pictures ahead
reports           the run's report, and how to update it
gradio_internals  everything that Gradio does not document
"""
