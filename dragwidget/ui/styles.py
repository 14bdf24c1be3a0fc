"""HTML that the widgets share: status, badges, errors, and the one style sheet.

Colours are those of the notebook's theme; no information is conveyed by colour alone.

Class names to automate and style by (each on the element that it names):

=============================  ===============================================================
``dragwidget``                 the whole widget
``dragwidget-actions``         the buttons that run an edit, above the image
``dragwidget-columns``         its two columns
``dragwidget-image``           an upload and samples
``dragwidget-open``            open an image
``dragwidget-sample``          a sample, with the button that opens it
``dragwidget-generate``        make an image from text
``dragwidget-canvas-box``      the canvas with its toolbar and caption
``dragwidget-canvas``          the image with all that is drawn on it
``dragwidget-caption``         the line below the image
``dragwidget-tool-<name>``     a tool: points, select, brush, eraser, lasso, rectangle, pan, probe
``dragwidget-source``          hold to see the source
``dragwidget-more``            show all controls of the canvas
``dragwidget-key-list``        list the keys
``dragwidget-keys``            the list of keys, over the image
``dragwidget-mask-style``      how the mask is shown
``dragwidget-undo``            undo
``dragwidget-redo``            redo
``dragwidget-prepare``         make LoRA and inversion
``dragwidget-step``            take one drag step
``dragwidget-run``             drag to the end
``dragwidget-pause``           pause after a step
``dragwidget-stop``            end the run
``dragwidget-reset``           go back to the start
``dragwidget-render``          make the final render
``dragwidget-hint``            what to do next
``dragwidget-select-part``     make a mask of what the pairs move
``dragwidget-status``          the current activity, as text
``dragwidget-error``           what went wrong; empty otherwise
``dragwidget-error-line``      the place of it, of fixed height
``dragwidget-badge``           the state of a stage, as symbol and word
``dragwidget-model``           the model that is used
``dragwidget-model-name``      the name of a model to load
``dragwidget-load``            load it
``dragwidget-warning``         what to know before a run
``dragwidget-plot``            a plot
``dragwidget-history``         the steps taken
``dragwidget-frame``           a thumbnail of the filmstrip, with the button that goes there
``dragwidget-points``          the table of points
``dragwidget-compare``         source and edited image
``dragwidget-features``        the similarity of features
``dragwidget-export-png``      save the image
``dragwidget-export-gif``      save the animation
``dragwidget-export-json``     save the instructions
``dragwidget-export-python``   show Python code that repeats the edit
``dragwidget-loras``           LoRA files that change the model, with weights
``dragwidget-essentials``      preset, strength, drag steps and LoRA steps
``dragwidget-settings``        all settings
``dragwidget-settings-field``  one setting
``dragwidget-settings-back``   the button that resets one setting
``dragwidget-help``            what the settings mean
=============================  ===============================================================
"""

from __future__ import annotations

import html
import traceback
from typing import Literal

TEXT = "var(--jp-ui-font-color1, currentColor)"
FAINT = "var(--jp-ui-font-color2, currentColor)"
FONT = "var(--jp-ui-font-family, system-ui, sans-serif)"
_GOOD = "var(--jp-success-color1, #388e3c)"
_CARE = "var(--jp-warn-color1, #c77700)"
_BAD = "var(--jp-error-color1, #d32f2f)"

LONGEST_TRACEBACK = 20_000  # characters; the end of one says most

BadgeState = Literal["ready", "outdated", "missing", "off"]
_BADGES = {  # symbol, word
    "ready": ("✓", "ready"),
    "outdated": ("↻", "outdated"),
    "missing": ("○", "not made"),
    "off": ("◌", "off"),
}

STYLE = f"""<style>
.dragwidget {{ --jp-widgets-container-padding: 8px; }}
.dragwidget-status, .dragwidget-error, .dragwidget-badge {{
  color: {TEXT}; font-family: {FONT}; font-size: var(--jp-ui-font-size1, 13px); line-height: 20px;
}}
.dragwidget-status, .dragwidget-error {{ min-height: 20px; overflow-wrap: anywhere; }}
.dragwidget-status {{ font-variant-numeric: tabular-nums; }}
.dragwidget-hint {{
  display: flex; align-items: center; height: 40px; overflow: hidden; padding-left: 8px;
  border-left: 3px solid var(--jp-brand-color1, #1976d2);
  color: {TEXT}; font-family: {FONT}; font-size: var(--jp-ui-font-size1, 13px); line-height: 19px;
}}
.dragwidget-model, .dragwidget-warning {{
  color: {TEXT}; font-family: {FONT}; font-size: var(--jp-ui-font-size1, 13px); line-height: 18px;
  overflow-wrap: anywhere;
}}
.dragwidget-warning {{ border-left: 3px solid {_CARE}; padding-left: 8px; margin: 2px 0 4px; }}
.dragwidget-frame {{ position: relative; }}
.dragwidget-frame .widget-button {{
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 0 0 1px;
  display: flex; align-items: flex-end; justify-content: center;
  background: transparent; box-shadow: none; color: {TEXT}; font-size: 10px; line-height: 14px;
}}
.dragwidget-frame .widget-button:not(:disabled):hover {{
  outline: 2px solid {FAINT}; outline-offset: -2px;
}}
.dragwidget-faint {{ color: {FAINT}; }}
.dragwidget-error-text {{ border-left: 3px solid {_BAD}; padding-left: 8px; }}
.dragwidget-error summary {{ cursor: pointer; }}
.dragwidget-error-line {{ height: 64px; overflow: hidden auto; }}
.dragwidget-error-line:has(details[open]) {{ height: auto; }}
.dragwidget-error pre {{
  font-family: var(--jp-code-font-family, monospace); font-size: 12px; line-height: 1.35;
  margin: 4px 0 0; max-height: 240px; overflow: auto; white-space: pre-wrap; color: inherit;
}}
.dragwidget-badge {{ display: flex; gap: 6px; align-items: baseline; }}
.dragwidget-badge-symbol {{ flex: none; width: 1em; text-align: center; font-weight: 700; }}
.dragwidget-badge-name {{ flex: none; min-width: 5.5em; }}
.dragwidget-badge-word {{ flex: none; font-weight: 600; }}
.dragwidget-badge-why {{
  color: {FAINT}; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0;
}}
.dragwidget-badge-ready .dragwidget-badge-symbol {{ color: {_GOOD}; }}
.dragwidget-badge-outdated .dragwidget-badge-symbol {{ color: {_CARE}; }}
.dragwidget-settings {{ --jp-widgets-container-padding: 6px; }}
.dragwidget-settings .widget-toggle-button.mod-active {{
  box-shadow: inset 0 -3px 0 currentColor; font-weight: 700;
}}
.dragwidget-settings .widget-label {{ text-align: left; }}
.dragwidget-settings .widget-checkbox .widget-label-basic {{ padding: 0; }}
.dragwidget-settings-field.widget-box {{ overflow: visible; align-items: center; }}
.dragwidget-settings-back.jupyter-button {{ padding: 0; }}
.dragwidget-unit {{
  color: {FAINT}; font-family: {FONT}; font-size: 11px; line-height: 28px; white-space: nowrap;
}}
.dragwidget-help {{ color: {TEXT}; font-family: {FONT}; font-size: 12px; line-height: 1.45; }}
.dragwidget-help summary {{ cursor: pointer; color: {FAINT}; }}
.dragwidget-help dl {{ margin: 6px 0 0; }}
.dragwidget-help dt {{ font-weight: 600; }}
.dragwidget-help dd {{ margin: 0 0 6px; }}
.dragwidget-plot {{ display: block; max-width: 100%; height: auto; }}
</style>"""
"""The style sheet, the value of one ``HTML`` widget on the page."""


def escape(text: object) -> str:
    """Escape text for HTML, quoted attributes included."""
    return html.escape(str(text), quote=True)


def status_line(text: str) -> str:
    """Return the status line; screen readers read it when it changes."""
    return f'<div class="dragwidget-status" role="status" aria-live="polite">{escape(text)}</div>'


def hint_line(text: str) -> str:
    """Return what to do next, two lines at most; what is cut off can be pointed at."""
    whole = escape(text)
    return f'<div class="dragwidget-hint" role="status" title="{whole}"><span>{whole}</span></div>'


def model_line(name: str, where: str) -> str:
    """Return the line that names the model, and its device."""
    return (
        '<div class="dragwidget-model"><span class="dragwidget-faint">Model</span> '
        f'<b>{escape(name)}</b> <span class="dragwidget-faint">{escape(where)}</span></div>'
    )


def warning_line(text: str) -> str:
    """Return a warning; screen readers read it at once."""
    if not text:
        return ""
    return (
        '<div class="dragwidget-warning" role="alert"><strong>⚠ Warning</strong> '
        f"{escape(text)}</div>"
    )


def badge(name: str, state: BadgeState, why: str = "") -> str:
    """Return the badge of a stage's state, a symbol and a word."""
    symbol, word = _BADGES[state]
    why = "" if why.startswith(word) else why
    reason = f'<span class="dragwidget-badge-why">{escape(why)}</span>' if why else ""
    return (
        f'<div class="dragwidget-badge dragwidget-badge-{state}" title="{escape(why)}">'
        f'<span class="dragwidget-badge-symbol" aria-hidden="true">{symbol}</span>'
        f'<span class="dragwidget-badge-name">{escape(name)}</span>'
        f'<span class="dragwidget-badge-word">{word}</span>{reason}</div>'
    )


def error_line(error: BaseException | str | None, *, hint: str = "") -> str:
    """Return an error in one line, its traceback folded; of the same height without an error.

    Args:
        hint: what to do about it.
    """
    if error is None or error == "":
        return '<div class="dragwidget-error" role="alert"></div>'
    if isinstance(error, str):
        text, details = error, ""
    else:
        text = str(error).strip() or type(error).__name__
        details = "".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:]
    first, _, rest = text.partition("\n")
    line = f"<strong>⚠</strong> {escape(first)}"
    if hint:
        line += f' <span class="dragwidget-faint">· {escape(hint)}</span>'
    details = details or rest
    if details:
        line = f"<details><summary>{line}</summary><pre>{escape(details)}</pre></details>"
    return (
        '<div class="dragwidget-error" role="alert">'
        f'<div class="dragwidget-error-text">{line}</div></div>'
    )
