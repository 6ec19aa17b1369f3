// The browser's part of a review: keys, the reviewer's name, and that only an image on the screen is judged.
const SEEN_MS = 150; // an image must be visible so long before it can be judged
const ANSWER_MS = 1000; // without a response, the same answer can be given again after this time
const ALIVE_MS = 20_000; // how often the page tells the server that it is open
const IDLE = 15; // how many times it does so while nobody uses it
const EARLY = 'Too quick: the image had only just appeared. Nothing was saved.';
const TAB = 'maskbatch-tab', NAME = 'maskbatch-name';

// A reloaded tab keeps its id and continues where it was; a duplicated tab finds none here and gets a new id.
const tab = sessionStorage.getItem(TAB) ?? [...crypto.getRandomValues(new Uint32Array(4))].join('-');
addEventListener('pageshow', () => sessionStorage.removeItem(TAB));
addEventListener('pagehide', () => sessionStorage.setItem(TAB, tab));
sessionStorage.removeItem(TAB);

const card = () => element.querySelector('.judging');
const field = name => element.querySelector(`[name=${name}]`);
let timer, reports = IDLE;
const markSeenAfter = ms => {
  delete card()?.dataset.seen;
  clearTimeout(timer);
  timer = setTimeout(() => {
    const image = [...element.querySelectorAll('figure img')].find(image => !image.complete);
    if (!image) card()?.setAttribute('data-seen', '');
    else image.addEventListener('load', () => markSeenAfter(0), {once: true});
  }, ms);
};
watch('value', () => markSeenAfter(SEEN_MS));

const send = message => {
  reports = IDLE;
  markSeenAfter(ANSWER_MS); // if several keys are pressed at once, only the first counts
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
    send({what: 'filter', ...Object.fromEntries(['show', 'camera', 'day'].map(name => [name, field(name).value]))});
  }
  event.target.blur(); // so that keys judge again
});

document.addEventListener('keydown', event => {
  const typing = event.target.closest?.('input, select, textarea, [contenteditable]');
  if (event.key === 'Enter' && event.target.name === 'name') event.target.blur();
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  const key = event.key === 'Backspace' ? 'u' : event.key.toLowerCase();
  const button = [...element.querySelectorAll('button[data-key]')].find(button => button.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  button.click();
});

setInterval(() => reports-- > 0 && trigger('alive', {message: {tab}}), ALIVE_MS);
send({what: 'show'});
