// Chooses light or dark before the first paint, so that the page never flashes in the wrong one.
// Without a choice the page follows the system (prefers-color-scheme).

const chosen = localStorage.getItem("holdfast:theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
