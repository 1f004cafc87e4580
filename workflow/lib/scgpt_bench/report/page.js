'use strict';
// What is shown follows the address (#category, #category/dataset, #item), so that every view has a link and a history.
// #print is everything at once.

const EVERYTHING = '#print';
const ROWS = 25; // of a table, on a page of it
const PRINTED = 680; // pixels that fit the width of a printed page, in portrait
const sections = [...document.querySelectorAll('main > section')];
const links = [...document.querySelectorAll('header nav a')];
const filled = new Map(); // tables of the page, and what DataTables makes of them
let library;
let closed = []; // what was folded before printing

function show() {
  if (location.hash === EVERYTHING) {
    showEverything();
    return;
  }
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1))) || sections[0];
  const section = target.closest('section');
  for (const other of sections) other.hidden = other !== section;
  for (const link of links) mark(link, link.hash === '#' + section.id);
  showGroup(section, target.closest('.group'));
  const entry = target.closest('.item');
  if (entry) entry.hidden = false;
  // After the browser's own scrolling to the fragment.
  requestAnimationFrame(() => (entry ? entry.scrollIntoView() : window.scrollTo(0, 0)));
  if (location.hash) (entry || section).focus({ preventScroll: true });
}

function showEverything() {
  for (const section of sections) section.hidden = false;
  for (const group of document.querySelectorAll('.group')) {
    group.hidden = false;
    prepare(group);
  }
  window.scrollTo(0, 0);
}

function mark(link, current) {
  if (current) link.setAttribute('aria-current', 'page');
  else link.removeAttribute('aria-current');
}

function showGroup(section, chosen) {
  const groups = [...section.querySelectorAll('.group')];
  const named = groups.filter((group) => group.dataset.dataset !== undefined);
  const shown = chosen && chosen.dataset.dataset !== undefined ? chosen : named[0];
  for (const group of groups) {
    group.hidden = group.dataset.dataset !== undefined && group !== shown;
    if (!group.hidden) prepare(group);
  }
  for (const link of section.querySelectorAll('.datasets a')) {
    mark(link, decodeURIComponent(link.hash.slice(1)) === shown.id);
  }
}

function prepare(group) {
  if (group.dataset.prepared) return;
  group.dataset.prepared = 'yes';
  addFilters(group);
  const targets = group.querySelectorAll('img[data-source], table[data-kinds]');
  for (const target of targets) nearby.observe(target);
  drawInPeace([...targets]);
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
  return target.tagName === 'IMG' ? draw(target) : fill(target);
}

async function drawInPeace(targets) {
  const idle = window.requestIdleCallback || ((callback) => setTimeout(callback, 50));
  for (const target of targets) {
    await new Promise((resolve) => idle(resolve));
    if (!target.closest('section').hidden && !target.closest('.group').hidden) await once(target);
  }
}

function addFilters(group) {
  const items = [...group.querySelectorAll('.item')].map((element) => [element, JSON.parse(element.dataset.labels)]);
  items.forEach(([element, labels]) => { labels.show = element.querySelector('h3').firstChild.data.trim(); });
  const names = [...new Set(items.flatMap(([, labels]) => Object.keys(labels)))].reverse();
  const chosen = {};
  const filters = group.querySelector('.filters');
  for (const name of names) {
    const values = [...new Set(items.map(([, labels]) => labels[name]).filter((value) => value !== undefined))];
    if (values.length < 2) continue;
    const select = document.createElement('select');
    select.append(new Option('all', ''), ...values.map((value) => new Option(value, value)));
    select.addEventListener('change', () => {
      chosen[name] = select.value;
      for (const [element, labels] of items) {
        element.hidden = Object.entries(chosen).some(([key, value]) => value && labels[key] !== value);
      }
    });
    const label = document.createElement('label');
    label.append(name, select);
    filters.append(label);
  }
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

async function figure(image) {
  const compressed = new Blob([bytesOf(image.dataset.source)]).stream();
  const content = await new Response(compressed.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
  return new Blob([content], { type: 'image/svg+xml' });
}

async function draw(image) {
  image.src = URL.createObjectURL(await figure(image));
  await image.decode();
  URL.revokeObjectURL(image.src);
}

async function fill(table) {
  if (!library) {
    const source = new Blob([bytesOf(document.getElementById('library').textContent)], { type: 'text/javascript' });
    library = import(URL.createObjectURL(source));
  }
  const DataTable = (await library).default;
  const [, ...rows] = parse(table.closest('.item').querySelector('pre').textContent);
  const kinds = JSON.parse(table.dataset.kinds);
  const columns = kinds.map((kind, index) => (kind === 'text' ? textColumn() : numberColumn(rows, index, kind === 'bar')));
  // `table.dataset.ready` tells the tests that the library is done.
  filled.set(table, new DataTable(table, {
    data: rows, columns, order: [], pageLength: ROWS, autoWidth: false, deferRender: true, orderClasses: false,
    initComplete: () => {
      const item = table.closest('.item');
      item.querySelector('nav')?.setAttribute('aria-label', `Pages of ${item.querySelector('h3').textContent}`);
      table.dataset.ready = 'yes';
    },
  }));
}

// Paper is white and has no pages of a table, nothing to unfold and no scroll bars: all rows are printed, wide tables
// smaller.
function beforePrinting() {
  document.documentElement.classList.remove('dark');
  closed = [...document.querySelectorAll('details:not([open])')];
  for (const details of closed) details.open = true;
  for (const [table, rows] of filled) {
    if (table.checkVisibility()) rows.page.len(-1).draw(false);
  }
  for (const table of document.querySelectorAll('main table')) {
    const { width } = table.style;
    table.style.width = 'min-content';
    table.style.zoom = Math.min(1, PRINTED / (table.offsetWidth || PRINTED));
    table.style.width = width;
  }
}

function afterPrinting() {
  follow();
  for (const details of closed) details.open = false;
  for (const table of document.querySelectorAll('main table')) table.style.zoom = '';
  for (const rows of filled.values()) {
    if (rows.page.len() === -1) rows.page.len(ROWS).draw(false);
  }
}

function textColumn() {
  return { className: 'text', render: { display: escaped, _: (value) => value } };
}

// Numbers are sorted and saved in full and shown with four digits; a missing one is sorted last from above.
function numberColumn(rows, index, bar) {
  const values = rows.map((row) => row[index]).filter((value) => value !== '').map(Number);
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return {
    className: 'number',
    type: 'num',
    render: {
      display: (value) => (value === '' ? '' : String(Number(Number(value).toPrecision(4)))),
      filter: (value) => value,
      _: (value) => (value === '' ? -Infinity : Number(value)),
    },
    createdCell: (cell, value) => {
      if (!bar || value === '' || !largest) return;
      const colour = Number(value) < 0 ? 'var(--less)' : 'var(--more)';
      cell.style.backgroundImage = `linear-gradient(${colour}, ${colour})`;
      cell.style.backgroundSize = `${(100 * Math.abs(Number(value))) / largest}% 100%`;
    },
  };
}

function escaped(value) {
  return value.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

// Tab-separated values as pandas writes them: cells with a tab, a line break or a quotation mark are quoted.
function parse(text) {
  const rows = [[]];
  const cell = /(?:"((?:[^"]|"")*)"|([^\t\n]*))(\t|\n|$)/y;
  while (cell.lastIndex < text.length) {
    const [, quoted, plain, end] = cell.exec(text);
    rows[rows.length - 1].push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === '\n' && cell.lastIndex < text.length) rows.push([]);
  }
  return rows;
}

async function save(button) {
  const entry = button.closest('.item');
  const image = entry.querySelector('img');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(image ? await figure(image) : new Blob([entry.querySelector('pre').textContent]));
  link.download = button.dataset.file.replaceAll('/', '.').replace(/^results\./, '');
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

for (const button of document.querySelectorAll('button.download')) {
  button.addEventListener('click', () => save(button));
}
history.scrollRestoration = 'manual';
window.addEventListener('hashchange', show);
window.addEventListener('beforeprint', beforePrinting);
window.addEventListener('afterprint', afterPrinting);
show();
