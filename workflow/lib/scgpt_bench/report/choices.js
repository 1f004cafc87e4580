// The selectors above a page: data set, split, metric and method. They leave the items whose labels agree, and the rows
// of tables.

const names = JSON.parse(document.getElementById('names').textContent); // of metrics and methods: what they are
const CHOICES = ['dataset', 'split', 'context', 'metric', 'group', 'method']; // those that tables have columns for
const ONE = 'pooled or one'; // what is shown where several splits have a figure, and none was chosen
const WORDS = { dataset: 'data set', group: 'kind of method', show: 'what' };

// What a name of a method or a metric means, where it is one.
function meaningOf(name) {
  return [names.method, names.metric].find((known) => Object.hasOwn(known, name))?.[name];
}

// The value of a choice in an item's labels or a table's row: the kind of a method is that of its name.
function valueOf(labels, name) {
  return name === 'group' ? names.groups[labels.method] : labels[name];
}

// What an item can be told apart by.
function labelsOf(item) {
  return { ...JSON.parse(item.dataset.labels), show: item.querySelector('h3').dataset.heading };
}

// The values that a choice has among these items and in their tables, in their order.
function valuesOf(items, name) {
  const found = new Set();
  for (const item of items) {
    const inTable = JSON.parse(item.querySelector('.table')?.dataset.choices ?? '{}');
    const labels = [valueOf(labelsOf(item), name)];
    if (name === 'group') labels.push(...(inTable.method ?? []).map((method) => names.groups[method]));
    for (const value of [...labels, ...(inTable[name] ?? [])]) if (value !== undefined) found.add(value);
  }
  return [...found];
}

// The choices that hold among these items: what was chosen, else the headline metric, which spares the reader 50
// metrics of different units. What does not occur here is no choice here: it waits for the next page.
function choicesAmong(items, { dataset, chosen }) {
  const loose = new Set(items.flatMap((item) => Object.keys(labelsOf(item))));
  const holding = new Map();
  const options = new Map();
  const strangers = [];
  for (const name of new Set([...CHOICES, ...[...loose].reverse()])) {
    const values = valuesOf(items, name);
    if (!values.length) continue;
    options.set(name, values);
    const value = name === 'dataset' ? dataset || undefined : chosen.get(name);
    if (value && name !== 'dataset' && !values.includes(value)) strangers.push(value);
    if (values.includes(value)) holding.set(name, value);
    else if (name === 'metric' && value !== '') {
      holding.set(name, values.includes(names.headline) ? names.headline : values[0]);
    } else if (name === 'split' && value === undefined && values.length > 1 && !chosen.has('perturbation')) {
      holding.set(ONE, true);
    }
  }
  return { holding, options, strangers };
}

function agrees(labels, holding) {
  return [...holding].every(([name, value]) => [undefined, value].includes(valueOf(labels, name)));
}

// Of figures that differ in nothing but the split, that of all splits together; or else that of the split with the
// largest measured change, where there are views of perturbations; or else the first.
function oneOfEach(items) {
  const [best, leading] = [new Map(), new Map()];
  for (const view of items.flatMap((item) => [...item.querySelectorAll('.view')])) {
    const [group, largest] = [view.closest('.group'), Number(view.dataset.largest)];
    if (!(leading.get(group)?.largest >= largest)) {
      leading.set(group, { largest, split: labelsOf(view.closest('.item')).split });
    }
  }
  for (const item of items) {
    const { split, ...others } = labelsOf(item);
    const group = item.closest('.group');
    const key = JSON.stringify([group.dataset.dataset, others]);
    const rank = names.pooled.includes(split) ? 2 : Number(split === leading.get(group)?.split);
    if (!best.has(key) || rank > best.get(key).rank) best.set(key, { item, rank });
  }
  return new Set([...best.values()].map(({ item }) => item));
}

// Draw the selectors of a page, and leave the items that agree with the choices. Returns what holds.
function applyChoices(section, items, here, everything) {
  const { holding, options, strangers } = choicesAmong(items, here);
  if (everything) holding.clear();
  for (const item of items) item.hidden = !agrees(labelsOf(item), holding);
  if (holding.has(ONE)) {
    const figures = items.filter((item) => !item.hidden && item.querySelector('.figure, .view'));
    const kept = oneOfEach(figures);
    for (const item of figures) item.hidden = !kept.has(item);
  }
  const form = section.querySelector('.choices');
  if (!form) return holding;
  const tabs = section.querySelector('.group[data-dataset]');
  const several = [...options].filter(([name, values]) => values.length > 1 && !(name === 'dataset' && tabs));
  const selects = several.map(([name, values]) => {
    const select = document.createElement('select');
    select.append(new Option(name === 'split' ? 'every' : 'all', ''), ...values.map((value) => new Option(value, value)));
    if (name === 'split' && !here.chosen.has('perturbation')) select.prepend(new Option(ONE, ONE));
    select.value = name === 'split' && holding.has(ONE) ? ONE : holding.get(name) ?? '';
    select.name = name;
    select.addEventListener('change', () => choose(name, select.value === ONE ? undefined : select.value));
    const label = document.createElement('label');
    for (const option of select.options) option.title = meaningOf(option.value) ?? '';
    select.title = meaningOf(select.value) ?? '';
    label.append(WORDS[name] ?? name, select);
    return label;
  });
  const focused = form.contains(document.activeElement) ? document.activeElement.name : undefined;
  form.replaceChildren(...selects);
  if (focused) form.elements[focused]?.focus();
  const left = items.filter((item) => !item.hidden).length;
  const said = [`${left} of ${items.length} items.`];
  if (strangers.length) said.push(`Not on this page: ${strangers.join(', ')}.`);
  const status = document.createElement('p');
  status.setAttribute('role', 'status');
  status.append(said.join(' '));
  if (left < items.length) {
    const all = document.createElement('a');
    const free = [...holding.keys()].map((name) => (name === ONE ? 'split' : name)).filter((name) => name !== 'dataset');
    const chosen = new Map([...here.chosen, ...free.map((name) => [name, ''])]);
    all.href = hashOf({ ...here, dataset: tabs ? here.dataset : '', chosen });
    all.textContent = 'Show all';
    status.append(' ', all);
  }
  if (selects.length) form.append(status);
  return holding;
}
