//! A view that refreshes itself in JupyterLab, without a server of our own.
//!
//! evcxr has no `update_display`, so the output of a cell cannot be changed by the kernel. But
//! Jupyter serves the files of its folder: the training writes one, and a script in the output of
//! the cell fetches it every second.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::atomic;
use crate::error::Result;
use crate::plot::Figure;
use crate::text;

/// A name that no other training of this folder has.
pub(super) fn unique() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    format!("{time}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Writes status and figure, whole or not at all: the browser never reads half a file.
pub(super) fn write(path: &Path, status: &str, figure: Option<&Figure>, finished: bool) -> Result<()> {
    let view = serde_json::json!({
        "status": status,
        "svg": figure.map(|figure| figure.svg().to_owned()),
        "finished": finished,
    });
    atomic::write_passing(path, view.to_string().as_bytes())
}

/// The output of the cell that asks for the view: what there is now, and the script.
pub(super) fn cell_output(path: &Path, status: &str, figure: Option<&Figure>) -> String {
    let (escaped, status) = (text::html(status), text::harmless(status));
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let relative: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let relative = serde_json::json!(relative).to_string().replace('<', "\\u003c");
    let svg = figure.map_or("", Figure::svg);
    format!(
        "EVCXR_BEGIN_CONTENT text/html\n\
         <div id=\"{name}\"><pre style=\"margin:.3em 0\">{escaped}</pre><div>{svg}</div></div>\n\
         <script>\n\
         (() => {{\n\
           const view = document.getElementById({name:?});\n\
           const config = JSON.parse((document.getElementById('jupyter-config-data') || {{}}).textContent || '{{}}');\n\
           const base = config.baseUrl || (document.body.dataset.baseUrl || '/');\n\
           // The folder of this notebook under Jupyter's root, where this process runs.\n\
           const open = decodeURIComponent(location.pathname).match(/\\/(?:tree|notebooks)\\/(.*[.]ipynb)$/);\n\
           const folder = open ? open[1].split('/').slice(0, -1) : [];\n\
           const url = base + 'files/' + folder.concat({relative}).map(encodeURIComponent).join('/');\n\
           let failures = 0;\n\
           const refresh = async () => {{\n\
             if (!view.isConnected) return;\n\
             try {{\n\
               const answer = await fetch(url + '?at=' + Date.now(), {{cache: 'no-store', credentials: 'same-origin'}});\n\
               if (!answer.ok) throw new Error(answer.status);\n\
               const now = await answer.json();\n\
               view.children[0].textContent = now.status;\n\
               if (now.svg) view.children[1].innerHTML = now.svg;\n\
               failures = 0;\n\
               if (now.finished) return;\n\
             }} catch (error) {{\n\
               if (++failures === 5) {{\n\
                 view.children[0].textContent += ' (no longer refreshed: ' + url + ' cannot be read)';\n\
                 return;\n\
               }}\n\
             }}\n\
             setTimeout(refresh, 1000);\n\
           }};\n\
           setTimeout(refresh, 1000);\n\
         }})();\n\
         </script>\n\
         EVCXR_END_CONTENT\n\
         EVCXR_BEGIN_CONTENT text/plain\n{status}\nEVCXR_END_CONTENT"
    )
}
