// The report is a page of its own, without scripts and without a way to this one.
const frame = element.querySelector('iframe');
watch('value', () => {
  const url = URL.createObjectURL(new Blob([props.value], {type: 'text/html'}));
  frame.src = url;
});

// A page that is loaded again shows the tab that it showed.
const OPEN = 'maskbatch-open', tabs = () => [...document.querySelectorAll('button[role=tab]')];
const name = tab => tab?.textContent.trim() ?? '';
addEventListener('pagehide', () => sessionStorage.setItem(OPEN, name(tabs().find(tab => tab.ariaSelected === 'true'))));
tabs().find(tab => name(tab) === sessionStorage.getItem(OPEN))?.click();

trigger('opened');
