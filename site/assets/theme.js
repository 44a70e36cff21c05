// Before the page is drawn: the theme that the reader chose, if any.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // A browser may keep nothing for pages from a folder.
}
