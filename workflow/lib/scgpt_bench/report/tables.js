// Tables: the rows that the choices leave, drawn by DataTables; numbers are saved in full and shown with four digits.

const ROWS = 25; // of a table, on a page of it
const LONG = 200; // rows, beyond which the print of the whole report leaves out other metrics than the headline
const PRINTED = 58; // rem that fit the width of a printed page, in portrait
const filled = new Map(); // tables of the page, and what DataTables makes of them
const parsed = new Map();
let library;

// Where no split is chosen, a table of several has the rows of all splits together, if it has such rows.
function withSplit(holder, holding) {
  const { split = [] } = JSON.parse(holder.dataset.choices);
  const pooled = holding.has(ONE) && split.find((name) => names.pooled.includes(name));
  return pooled ? new Map([...holding, ['split', pooled]]) : holding;
}

function rowsOf(holder) {
  if (!parsed.has(holder)) parsed.set(holder, parse(holder.closest('.item').querySelector('pre').textContent).slice(1));
  return parsed.get(holder);
}

// The rows of a table that agree with the choices, and its columns that say something: one that is the same in all rows
// is said in a sentence instead.
function partOf(holder, holding) {
  const columns = JSON.parse(holder.dataset.columns);
  const all = rowsOf(holder);
  const places = columns.flatMap((name, index) => (CHOICES.includes(name) ? [[name, index]] : []));
  const own = withSplit(holder, holding);
  const rows = all.filter((row) => agrees(Object.fromEntries(places.map(([name, index]) => [name, row[index]])), own));
  const same = columns.map((name, index) => (
    name !== 'verdict' && rows.length > 1 && rows.every((row) => row[index] === rows[0][index])));
  if (same.every(Boolean)) same[0] = false;
  const kept = first(columns, [...columns.keys()].filter((index) => !same[index]));
  const constant = columns.flatMap((name, index) => (same[index] ? [`${name} ${rows[0][index] || '(empty)'}`] : []));
  return { all, rows, columns, kept, constant };
}

// A verdict is in sight on a phone too: in a table of verdicts, methods and verdicts are the first columns.
function first(columns, kept) {
  if (!columns.includes('verdict')) return kept;
  const leads = (index) => columns[index] === 'method' || columns[index].startsWith('verdict');
  return [...kept.filter(leads), ...kept.filter((index) => !leads(index))];
}

async function fill(holder) {
  if (!library) {
    const source = new Blob([bytesOf(document.getElementById('library').textContent)], { type: 'text/javascript' });
    library = import(URL.createObjectURL(source));
  }
  const DataTable = (await library).default;
  const holding = holdingOf(holder);
  const state = JSON.stringify([...holding]);
  if (holder.dataset.holding === state) return;
  holder.dataset.holding = state;
  filled.get(holder)?.destroy(true);
  const { all, rows, columns, kept, constant } = partOf(holder, holding);
  const kinds = JSON.parse(holder.dataset.kinds);
  const table = document.createElement('table');
  table.className = 'compact stripe';
  table.setAttribute('aria-labelledby', holder.closest('.item').getAttribute('aria-labelledby'));
  const said = constant.length ? [sentence(`The same in every row: ${constant.join(', ')}.`)] : [];
  holder.replaceChildren(table, ...said, ...holder.querySelectorAll('.printed'));
  const described = kept.map((index) => ({
    data: index,
    title: explained(columns[index]),
    ...(kinds[index] === 'text' ? textColumn(holder, rows, columns, index) : numberColumn(rows, index, kinds[index] === 'bar')),
  }));
  filled.set(holder, new DataTable(table, {
    data: rows, columns: described, order: [], pageLength: ROWS, paging: rows.length > ROWS, searching: all.length > 1,
    autoWidth: false, deferRender: true, orderClasses: false,
    language: {
      infoPostFix: rows.length < all.length ? `, of ${all.length.toLocaleString('en')} in the file` : '',
      emptyTable: 'No row of this table agrees with the choices above.',
    },
    drawCallback: () => freeze(table),
    initComplete: () => {
      const item = holder.closest('.item');
      item.querySelector('nav')?.setAttribute('aria-label', `Pages of ${item.querySelector('h3').textContent}`);
      holder.dataset.ready = 'yes'; // tells the tests that the library is done
    },
  }));
  await showChosenMethods(holder);
}

function sentence(text) {
  const paragraph = document.createElement('p');
  paragraph.className = 'note';
  paragraph.textContent = text;
  return paragraph;
}

// The names of a row stay in sight when a wide table is scrolled: its first columns, while they leave room for others.
function freeze(table) {
  const head = [...table.tHead.rows[0].cells];
  const names = head.findIndex((cell) => cell.classList.contains('number'));
  const room = 0.5 * table.parentElement.clientWidth;
  let left = 0;
  for (const [index, cell] of head.entries()) {
    const width = cell.offsetWidth;
    const frozen = index === 0 || (index < names && left + width < room);
    for (const row of table.rows) {
      const own = row.cells[index];
      own?.classList.toggle('frozen', frozen && own.colSpan === 1 && width < room);
      if (own && frozen) own.style.left = `${left}px`;
    }
    if (!frozen) break;
    left += width;
  }
}

// In the index of perturbations a name leads to the view of it.
function textColumn(holder, rows, columns, index) {
  const name = columns[index];
  const display = (value, kind, row) => (name === 'perturbation' && linkOfRow(holder, columns, row)) || explained(value);
  const longest = rows.reduce((most, row) => Math.max(most, row[index].length), 0);
  const size = longest > 60 ? ' long' : longest > 24 ? ' phrase' : '';
  return { className: `text${size}`, render: { display, _: (value) => value } };
}

// All numbers of a column have the same number of decimals, so that they align; one that would be cut to nothing is
// written with a power of ten. A missing one is sorted last from above.
function numberColumn(rows, index, bar) {
  const values = rows.map((row) => row[index]).filter((value) => value !== '').map(Number);
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const decimals = values.every(Number.isInteger) || !Number.isFinite(largest) || !largest
    ? 0 : Math.min(Math.max(3 - Math.floor(Math.log10(largest)), 0), 6);
  const written = (number) => {
    if (!Number.isFinite(number)) return String(number);
    if (Math.abs(number) >= 1e9 || (number && Math.abs(number) < 0.5 * 10 ** -decimals)) return number.toExponential(1);
    return number.toFixed(decimals);
  };
  return {
    className: 'number',
    type: 'num',
    render: {
      display: (value) => (value === '' ? '' : written(Number(value))),
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

function explained(value) {
  const meaning = meaningOf(value);
  return meaning ? `<span title="${escaped(meaning)}">${escaped(value)}</span>` : escaped(value);
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

// Half of a printed report would be two tables of every method by fifty metrics: where no metric was chosen, a long one
// has the rows of the headline metric, of all splits together if it has such rows.
function abridged(holder, { chosen }) {
  const choices = JSON.parse(holder.dataset.choices);
  const whole = rowsOf(holder).length <= LONG || !choices.metric?.includes(names.headline) || chosen.has('metric');
  if (whole) return new Map();
  const pooled = choices.split?.find((name) => names.pooled.includes(name));
  return new Map([['metric', names.headline], ...(pooled ? [['split', pooled]] : [])]);
}

function leftOut(holder, here, rows, all, held) {
  const file = holder.closest('.item').querySelector('.file code').textContent;
  const said = sentence(`Printed: ${rows.length.toLocaleString('en')} of ${all.length.toLocaleString('en')} rows, those of ${
    [...held].map(([name, value]) => `${name} ${value}`).join(' and ')}. All rows are in ${file}. `);
  const link = document.createElement('a');
  link.href = hashOf({ ...here, chosen: new Map([...here.chosen, ['metric', '']]) });
  link.textContent = 'Print all rows';
  said.append(link);
  return said;
}

// Paper has no pages of a table and no scroll bars: rows are printed in the reader's order, and a table that is too wide
// is split into parts that each begin with what tells rows apart. A row that is empty in a later part is left out there.
// `here` is the address of the whole report in print, which has no choices of a page.
function printedParts(holder, here) {
  const held = here ? abridged(holder, here) : holdingOf(holder);
  const { all, rows, columns, kept, constant } = partOf(holder, held);
  const sorted = (!here && filled.get(holder)?.rows({ order: 'applied', search: 'applied' }).data().toArray()) || rows;
  const kinds = JSON.parse(holder.dataset.kinds);
  const looks = kept.map((index) => (kinds[index] === 'text' ? null : numberColumn(rows, index, false).render.display));
  const named = [...kept.keys()].filter((place) => [...CHOICES, 'perturbation'].includes(columns[kept[place]]));
  const lead = named.length ? named : [0];
  const tableOf = (places, number) => {
    const table = document.createElement('table');
    const head = table.createTHead().insertRow();
    const body = table.createTBody();
    for (const place of places) head.append(cellOf('th', columns[kept[place]], looks[place]));
    const own = places.filter((place) => !lead.includes(place));
    for (const row of sorted) {
      if (number && own.every((place) => row[kept[place]] === '')) continue;
      const line = body.insertRow();
      for (const place of places) {
        const value = row[kept[place]];
        line.append(cellOf('td', looks[place] ? looks[place](value) : value, looks[place]));
      }
    }
    return table;
  };
  const printed = document.createElement('div');
  printed.className = 'printed';
  holder.append(printed);
  const whole = tableOf([...kept.keys()], 0);
  [whole.style.width, whole.style.maxWidth] = ['max-content', 'none'];
  printed.append(whole);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const widths = [...whole.tHead.rows[0].cells].map((cell) => cell.getBoundingClientRect().width / rem);
  const parts = [[...lead]];
  for (const place of widths.keys()) {
    if (lead.includes(place)) continue;
    const part = parts[parts.length - 1];
    const taken = part.reduce((sum, other) => sum + widths[other], 0);
    if (part.length === lead.length || taken + widths[place] <= PRINTED) part.push(place);
    else parts.push([...lead, place]);
  }
  printed.replaceChildren(...parts.map(tableOf));
  if (here && rows.length < all.length) printed.prepend(leftOut(holder, here, rows, all, held));
  if (constant.length) printed.append(sentence(`The same in every row: ${constant.join(', ')}.`));
}

function cellOf(kind, text, isNumber) {
  const cell = document.createElement(kind);
  cell.textContent = kind === 'th' ? text.replaceAll('_', '_\u200b') : text; // a name may be broken where it has a line
  if (kind === 'th') cell.scope = 'col';
  if (isNumber) cell.className = 'number';
  return cell;
}
