// The frame keeps the report apart from this page, and lets it run no scripts.
const frame = element.querySelector('iframe');
watch('value', () => {
  const url = URL.createObjectURL(new Blob([props.value], {type: 'text/html'}));
  frame.src = url;
});

// After a reload, open the same tab again.
const OPEN = 'maskbatch-open', tabs = () => [...document.querySelectorAll('button[role=tab]')];
const name = tab => tab?.textContent.trim() ?? '';
addEventListener('pagehide', () => sessionStorage.setItem(OPEN, name(tabs().find(tab => tab.ariaSelected === 'true'))));
tabs().find(tab => name(tab) === sessionStorage.getItem(OPEN))?.click();

trigger('opened');
