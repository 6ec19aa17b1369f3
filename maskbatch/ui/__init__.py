"""`maskbatch ui`: the browser's side of maskbatch, on Gradio (extra `[ui]`); nothing else imports it.

start         what has to stand before Gradio is imported
access        who may connect: this machine, or anybody with the password
app           the page and its server
  gate        which requests come in at all
  uploads     what visitors send, deleted as soon as it is read
  look        colours and fonts
rendering     templates beside the modules
picture       the tab for one picture
review        the tabs of a run: report, review, corrections
  session     who judges what next, without a browser
  judgements  what was said so far, by everybody
  prefetch    the next pictures, read ahead
  reports     the run's report, and made anew
"""
