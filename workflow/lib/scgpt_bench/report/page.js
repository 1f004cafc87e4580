// The page: what the address asks for, drawn when it comes near the window, and the paper version.

const EVERYTHING = 'print';
const sections = [...document.querySelectorAll('main > section')];
const links = [...document.querySelectorAll('header nav a')];
const holdings = new Map(); // pages, and the choices that hold on them
let closed = []; // what was folded before printing
let before; // what was shown last

// The page, data set and choices that are shown: those of the address, or of the item that it names.
function shown() {
  const { page, dataset, chosen } = address();
  const item = document.getElementById(page)?.closest('.item');
  if (!item) return { page: page || 'start', dataset, chosen };
  const group = item.closest('.group');
  const labels = Object.entries(labelsOf(item)).filter(([name]) => CHOICES.includes(name));
  return {
    page: item.closest('section').id,
    dataset: dataset || group.dataset.dataset || '',
    chosen: new Map([...labels, ...chosen]),
  };
}

function show() {
  const asked = address();
  const here = shown();
  const everything = here.page === EVERYTHING;
  for (const printed of document.querySelectorAll('.printed')) printed.remove();
  const target = document.getElementById(asked.page) || sections[0];
  const section = everything ? undefined : target.closest('section') || sections[0];
  // First, since parts of a printed table are as wide as paper only where they have a width.
  document.documentElement.classList.toggle('everything', everything);
  for (const each of sections) {
    each.hidden = !everything && each !== section;
    if (!each.hidden) showSection(each, here, everything);
  }
  for (const link of links) {
    mark(link, !everything && link.dataset.page === section.id);
    link.hash = hashOf({ ...here, page: link.dataset.page });
  }
  const entry = target.closest('.item');
  if (entry) entry.hidden = false;
  const goal = entry || target.closest('#start h2');
  const place = everything ? EVERYTHING : `${section.id}/${here.dataset}/${goal?.id ?? ''}`;
  if (before === undefined ? location.hash : before !== place) {
    // After the browser's own scrolling to the fragment.
    requestAnimationFrame(() => (goal ? goal.scrollIntoView() : window.scrollTo(0, 0)));
    (entry || section || document.body).focus({ preventScroll: true });
  }
  before = place;
  document.dispatchEvent(new CustomEvent('choices'));
}

// To the content of the page that is shown, which stays.
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  sections.find((section) => !section.hidden).focus();
});

function mark(link, current) {
  if (current) link.setAttribute('aria-current', 'page');
  else link.removeAttribute('aria-current');
}

function showSection(section, here, everything) {
  const groups = [...section.querySelectorAll('.group')];
  const named = groups.filter((group) => group.dataset.dataset !== undefined);
  const current = named.find((group) => group.dataset.dataset === here.dataset) || named[0];
  for (const group of groups) group.hidden = !everything && group.dataset.dataset !== undefined && group !== current;
  for (const link of section.querySelectorAll('.datasets a')) {
    mark(link, link.dataset.dataset === current.dataset.dataset);
    link.hash = hashOf({ ...here, page: section.id, dataset: link.dataset.dataset });
  }
  const visible = groups.filter((group) => !group.hidden);
  const items = visible.flatMap((group) => [...group.querySelectorAll('.item')]);
  // Tables of the whole run follow the data set whose tab is open.
  const chosen = { ...here, page: section.id, dataset: current ? current.dataset.dataset : here.dataset };
  holdings.set(section, applyChoices(section, items, chosen, everything));
  for (const group of visible) prepare(group, everything ? here : undefined);
}

function holdingOf(element) {
  return holdings.get(element.closest('section'));
}

// `here` is the address where the whole report is shown, to be printed.
function prepare(group, here) {
  const figures = [...group.querySelectorAll('.figure')];
  const tables = [...group.querySelectorAll('.table')];
  if (here) for (const holder of tables) printedParts(holder, here);
  else for (const holder of tables) if (holder.dataset.drawn) fill(holder);
  const left = (here ? figures : [...figures, ...tables]).filter((target) => !target.dataset.drawn);
  for (const target of left) nearby.observe(target);
  drawInPeace(left);
}

// Thousands of figures would take seconds to draw: each is drawn when it comes near the window, and the others of what
// is shown when nothing else is to do, so that printing finds them.
const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) once(target);
  }
}, { rootMargin: '800px' });

function once(target) {
  nearby.unobserve(target);
  if (target.dataset.drawn) return undefined;
  target.dataset.drawn = 'yes';
  return target.matches('.figure') ? draw(target) : fill(target);
}

async function drawInPeace(targets) {
  const idle = window.requestIdleCallback || ((callback) => setTimeout(callback, 50));
  for (const target of targets) {
    await new Promise((resolve) => idle(resolve));
    if (target.checkVisibility()) await once(target);
  }
}

// Paper is white and has nothing to unfold; the code of rules stays folded.
function beforePrinting() {
  document.documentElement.classList.remove('dark');
  closed = [...document.querySelectorAll('details:not([open], .folded)')];
  for (const details of closed) details.open = true;
  if (document.documentElement.classList.contains('everything')) return;
  document.documentElement.classList.add('printing');
  for (const holder of document.querySelectorAll('.table')) if (holder.checkVisibility()) printedParts(holder);
}

function afterPrinting() {
  follow();
  for (const details of closed) details.open = false;
  if (document.documentElement.classList.contains('everything')) return;
  document.documentElement.classList.remove('printing');
  for (const printed of document.querySelectorAll('.printed')) printed.remove();
}

async function save(button) {
  const entry = button.closest('.item');
  const { suffix } = button.dataset;
  const figure = entry.querySelector('.figure');
  const packed = figure ?? entry.querySelector('.view');
  let content;
  if (figure && suffix === 'png') content = await pngOf(figure);
  else if (figure && suffix === 'tsv') content = await dataOf(figure);
  else content = packed ? await textOf(packed) : entry.querySelector('pre').textContent;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content]));
  const file = button.closest('.file').querySelector('code').textContent;
  link.download = `${file.replace(/^results\//, '').replaceAll('/', '.').replace(/\.\w+(\.gz)?$/, '')}.${suffix}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// Dark where the reader's system is: page.css follows it by itself, DataTables by a class.
const dark = matchMedia('(prefers-color-scheme: dark)');
function follow() {
  document.documentElement.classList.toggle('dark', dark.matches);
}
dark.addEventListener('change', follow);
follow();

// The start page names all pages; a run that has nothing to show on one has no such page.
for (const link of document.querySelectorAll('.next a:not([href="#print"])')) {
  if (!document.getElementById(link.hash.slice(1))) link.closest('li').remove();
}

// A narrow window shows a figure whole; enlarged, it scrolls sideways in its box and can be read.
for (const button of document.querySelectorAll('button.enlarge')) {
  button.addEventListener('click', () => {
    const large = button.closest('.item').querySelector('.figure').classList.toggle('large');
    button.setAttribute('aria-pressed', large);
  });
}

for (const button of document.querySelectorAll('button.download')) {
  button.addEventListener('click', () => save(button));
}
for (const code of document.querySelectorAll('main code')) code.title = meaningOf(code.textContent) ?? '';
history.scrollRestoration = 'manual';
window.addEventListener('hashchange', show);
window.addEventListener('beforeprint', beforePrinting);
window.addEventListener('afterprint', afterPrinting);
show();
