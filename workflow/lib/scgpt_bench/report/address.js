// What is shown is in the address, so that every view has a link and Back works:
//
//   #scores/planted?metric=effect_pearson&method=knn    a page, its data set, and choices on it
//   #3a4d44489176                                       an item: its page, with the choices that it belongs to
//   #print?method=knn                                   all pages at once, for paper
//
// Other parts of the page read choices with `address()` and make them with `choose(name, value)` or a link to
// `hashOf(...)`. Whenever the address changes, `document` has an event `choices`, after the page was shown.

// The address: `page` (a page, an item, or '' for the start), `dataset` ('' where none is chosen) and `chosen`, a Map of
// the names of choices (`split`, `metric`, `method`, `perturbation`, ...) to values. An empty value is all of them.
function address() {
  const hash = location.hash.slice(1);
  const end = hash.indexOf('?') < 0 ? hash.length : hash.indexOf('?');
  const [page, ...dataset] = hash.slice(0, end).split('/');
  const pairs = hash.slice(end + 1).split('&').filter((pair) => pair.includes('='));
  const chosen = new Map(pairs.map((pair) => {
    const equals = pair.indexOf('=');
    return [decoded(pair.slice(0, equals)), decoded(pair.slice(equals + 1))];
  }));
  return { page: decoded(page), dataset: decoded(dataset.join('/')), chosen };
}

// The same as the part of a link from `#` on.
function hashOf({ page, dataset = '', chosen = new Map() }) {
  const query = [...chosen].map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join('&');
  const path = encodeURIComponent(page) + (dataset && `/${encodeURIComponent(dataset)}`);
  return `#${path}${query && `?${query}`}`;
}

// Go to the present page with another choice: `dataset`, or any name; `undefined` takes back what was chosen.
function choose(name, value) {
  const here = shown();
  if (name === 'dataset') here.dataset = value ?? '';
  else if (value === undefined) here.chosen.delete(name);
  else here.chosen.set(name, value);
  // Several methods are chosen in the view of a perturbation: a later choice of one takes their place.
  if (name === 'method') here.chosen.delete('methods');
  location.hash = hashOf(here);
}

// An address that somebody wrote by hand may have a stray per cent sign.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
