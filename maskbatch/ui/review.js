// What the browser does of a review: keys, the name, and that only what is on the screen is judged.
const SEEN_MS = 150; // an image must be there so long before it can be judged
const ANSWER_MS = 1000; // an answer that has not come by then may be given again
const ALIVE_MS = 20_000; // how often the server hears that the page is there
const IDLE = 15; // how many times, of a page where nothing is done
const EARLY = 'That was too quick: the image had only just come, and nothing was judged.';
const TAB = 'maskbatch-tab', NAME = 'maskbatch-name';

// A tab that is loaded again goes on where it stood; a copy of it is another tab, and finds nothing here.
const tab = sessionStorage.getItem(TAB) ?? [...crypto.getRandomValues(new Uint32Array(4))].join('-');
addEventListener('pageshow', () => sessionStorage.removeItem(TAB));
addEventListener('pagehide', () => sessionStorage.setItem(TAB, tab));
sessionStorage.removeItem(TAB);

const card = () => element.querySelector('.judging');
const field = name => element.querySelector(`[name=${name}]`);
let timer, alive = IDLE;
const seenIn = ms => {
  delete card()?.dataset.seen;
  clearTimeout(timer);
  timer = setTimeout(() => {
    const image = element.querySelector('figure img');
    const seen = () => card()?.setAttribute('data-seen', '');
    if (!image || image.complete) seen();
    else image.addEventListener('load', seen, {once: true});
  }, ms);
};
watch('value', () => seenIn(SEEN_MS));

const send = message => {
  alive = IDLE;
  seenIn(ANSWER_MS); // of keys pressed at once, the first one counts
  trigger('answer', {message: {tab, name: localStorage.getItem(NAME) ?? '', ...message}});
};

element.addEventListener('click', event => {
  const button = event.target.closest('button[data-what]');
  if (!button) return;
  if (!('seen' in card().dataset)) {
    element.querySelector('.notice').textContent = EARLY;
    return;
  }
  const {what, label = null} = button.dataset, {position} = card().dataset;
  send({what, label, position: position === '' ? null : Number(position)});
  if (field('name')?.value === '') field('name').focus();
});

element.addEventListener('change', event => {
  if (event.target.name === 'name') {
    localStorage.setItem(NAME, event.target.value);
    send({what: 'show'});
  } else {
    send({what: 'narrow', ...Object.fromEntries(['show', 'camera', 'day'].map(name => [name, field(name).value]))});
  }
  event.target.blur(); // the keys are for judging again
});

document.addEventListener('keydown', event => {
  const typing = event.target.closest?.('input, select, textarea, [contenteditable]');
  if (event.key === 'Enter' && event.target.name === 'name') event.target.blur();
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  const key = event.key === 'Backspace' ? 'u' : event.key.toLowerCase();
  const button = [...element.querySelectorAll('button[data-key]')].find(one => one.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  button.click();
});

setInterval(() => alive-- > 0 && trigger('held', {message: {tab}}), ALIVE_MS);
send({what: 'show'});
