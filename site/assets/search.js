(() => {
  const query = document.getElementById("query");
  const found = document.getElementById("found");
  const results = document.getElementById("results");
  const MOST = 50;

  // Without accents and in small letters, one letter for each, so that places stay the same.
  const fold = (text) => Array.from(text, (letter) => letter.normalize("NFD")[0].toLowerCase()[0]).join("");
  const sections = window.searchIndex.map(([page, anchor, title, text]) => ({
    href: anchor ? `${page}#${anchor}` : page, title, text, letters: Array.from(text), foldedTitle: fold(title), folded: fold(text),
  }));

  // A word of the query is the beginning of a word of the text.
  const beginning = (word) => new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "gu");
  const place = (text, word, from = 0) => {
    const pattern = beginning(word);
    pattern.lastIndex = from;
    return pattern.exec(text)?.index ?? -1;
  };

  const score = (section, words, phrase) => {
    // Words that stand together weigh more.
    let total = words.length > 1 ? (section.foldedTitle.includes(phrase) ? 40 : 0) + (section.folded.includes(phrase) ? 15 : 0) : 0;
    for (const word of words) {
      const inTitle = place(section.foldedTitle, word) >= 0;
      const times = (section.folded.match(beginning(word)) || []).length;
      if (!inTitle && !times) return 0;
      total += (inTitle ? 20 : 0) + Math.min(times, 5);
    }
    return total;
  };

  const excerpt = (section, words, phrase) => {
    const places = [phrase, ...words].map((word) => place(section.folded, word)).filter((at) => at >= 0);
    const first = places.length ? places[0] : 0;
    const start = first > 60 ? section.folded.indexOf(" ", first - 60) + 1 : 0;
    const end = Math.min(section.letters.length, start + 220);
    const line = document.createElement("p");
    if (start) line.append("… ");
    let at = start;
    while (at < end) {
      const next = words.map((word) => [place(section.folded, word, at), word.length]).filter(([start]) => start >= 0 && start < end).sort((a, b) => a[0] - b[0])[0];
      line.append(section.letters.slice(at, next ? next[0] : end).join(""));
      if (!next) break;
      const mark = document.createElement("mark");
      mark.textContent = section.letters.slice(next[0], next[0] + next[1]).join("");
      line.append(mark);
      at = next[0] + next[1];
    }
    if (end < section.letters.length) line.append(" …");
    return line;
  };

  const search = () => {
    const words = fold(query.value).split(/\s+/).filter((word) => word.length > 1);
    const phrase = words.join(" ");
    results.replaceChildren();
    if (!words.length) {
      found.textContent = results.dataset.hint;
      return;
    }
    const hits = sections.map((section) => [score(section, words, phrase), section]).filter(([points]) => points).sort((a, b) => b[0] - a[0]);
    const text = hits.length === 1 ? results.dataset.one : hits.length ? results.dataset.many : results.dataset.none;
    found.textContent = text.replace("{n}", hits.length);
    for (const [, section] of hits.slice(0, MOST)) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = section.href;
      link.textContent = section.title;
      item.append(link, excerpt(section, words, phrase));
      results.append(item);
    }
  };

  query.value = new URLSearchParams(location.search).get("q") || "";
  query.addEventListener("input", search);
  query.form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  search();
})();
