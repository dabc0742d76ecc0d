// Likely label errors are judged here, and saved as a table of corrections: no server, no network.
const verdicts = new Map(); // image → what was said, also of those that are not shown now
const saveVerdicts = one("#save-verdicts");
const plainText = (text) => /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
const tableCell = (text) => /[",\r\n;|\t]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

function verdictTable() {
  const lines = [...verdicts.values()].map(({ each, verdict, changed }) =>
    [each.sha256, plainText(data.classes[each.label]), verdict, verdict === "change" ? plainText(data.classes[changed]) : "", `./${data.path[each.i]}`]);
  return [["sha256", "old", "verdict", "new", "path"], ...lines].map((line) => line.map(tableCell).join(",")).join("\n") + "\n";
}
function countVerdicts() {
  const count = verdicts.size, of = data.doubts.image.length;
  saveVerdicts.disabled = !count;
  one("#verdicts").textContent = `${count} of ${of} images ${of === 1 ? "is" : "are"} judged.`;
}

belowDoubts.push((each) => {
  const path = data.path[each.i], said = verdicts.get(each.i);
  const choices = ["keep", "drop", "change"].map((verdict) => [verdict, element("input", { type: "radio", name: `verdict-${each.i}`, value: verdict, checked: said?.verdict === verdict })]);
  const others = data.classes.map((name, label) => [name, label]).filter(([, label]) => label !== each.label);
  const select = element("select", { "aria-label": `New class of ${path}` }, others.map(([name, label]) => element("option", { value: String(label), textContent: name })));
  select.value = String(said ? said.changed : each.other);
  const judged = element("fieldset", { className: "judged" }, [
    element("legend", { className: "hidden", textContent: `Verdict on ${path}` }),
    ...choices.map(([verdict, input]) => element("label", {}, [input, verdict === "change" ? " change to" : ` ${verdict}`])), select]);
  judged.dataset.path = path;
  judged.addEventListener("change", (event) => {
    if (event.target === select) choices[2][1].checked = true;
    verdicts.set(each.i, { each, verdict: choices.find(([, input]) => input.checked)[0], changed: Number(select.value) });
    countVerdicts();
  });
  return judged;
});
if (saveVerdicts) saveVerdicts.addEventListener("click", () => save("corrections.csv", verdictTable()));
