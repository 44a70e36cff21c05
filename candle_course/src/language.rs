//! The language in which the crate speaks to a learner.
//!
//! Checks, reports, and the labels of figures that the crate draws by itself are said in English or in
//! Brazilian Portuguese; a lesson chooses in its first cell. It is a setting of the whole process, as a
//! locale is. Errors stay English, as the compiler's do, and so do the names of metrics as keys.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

/// A language that the crate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Brazilian Portuguese.
    Portuguese,
}

static CURRENT: AtomicU8 = AtomicU8::new(0);

/// Chooses the language of everything that is said from now on: `en` or `pt-BR`.
///
/// # Errors
/// If the crate does not speak it.
///
/// # Examples
///
/// ```
/// use candle_course::language::{Language, language, set_language};
///
/// set_language("en")?;
/// assert_eq!(language(), Language::English);
/// assert!(set_language("tlh").is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn set_language(name: &str) -> Result<()> {
    let chosen = match name {
        "en" => Language::English,
        "pt-BR" | "pt" => Language::Portuguese,
        _ => return Err(Error::argument("name", "`en` or `pt-BR`", name)),
    };
    CURRENT.store(chosen as u8, Ordering::Relaxed);
    Ok(())
}

/// The language that was chosen; English unless one was.
pub fn language() -> Language {
    match CURRENT.load(Ordering::Relaxed) {
        0 => Language::English,
        _ => Language::Portuguese,
    }
}

/// The text in the chosen language.
pub(crate) fn chosen(english: &'static str, portuguese: &'static str) -> &'static str {
    match language() {
        Language::English => english,
        Language::Portuguese => portuguese,
    }
}

/// As `format!`, with a text for each language.
macro_rules! told {
    ($english:literal, $portuguese:literal $(, $argument:expr)* $(,)?) => {
        match $crate::language::language() {
            $crate::language::Language::English => format!($english $(, $argument)*),
            $crate::language::Language::Portuguese => format!($portuguese $(, $argument)*),
        }
    };
}
pub(crate) use told;

/// Labels, and names of metrics where they are shown.
const LABELS: [(&str, &str); 75] = [
    ("Accuracy", "Acurácia"),
    ("Activations", "Ativações"),
    ("Confusion matrix", "Matriz de confusão"),
    ("Dead units", "Unidades mortas"),
    ("Gradients", "Gradientes"),
    ("Learning rate", "Taxa de aprendizado"),
    ("Learning-rate range test", "Teste de faixa da taxa de aprendizado"),
    ("Loss", "Perda"),
    ("Precision and recall", "Precisão e recall"),
    ("ROC curve", "Curva ROC"),
    ("Reliability", "Confiabilidade"),
    ("Training loss", "Perda de treino"),
    ("Update-to-weight ratio", "Razão entre atualização e peso"),
    ("accuracy", "acurácia"),
    ("chance", "acaso"),
    ("class", "classe"),
    ("confidence", "confiança"),
    ("count", "contagem"),
    ("dead units", "unidades mortas"),
    ("density", "densidade"),
    ("epoch", "época"),
    ("every step", "cada passo"),
    ("example", "exemplo"),
    ("false positive rate", "taxa de falsos positivos"),
    ("fast", "rápido"),
    ("gradient rms", "rms do gradiente"),
    ("hardly moves", "quase não se move"),
    ("jumps: lower the learning rate", "salta: diminua a taxa de aprendizado"),
    ("kept", "mantidos"),
    ("layer", "camada"),
    ("learning rate", "taxa de aprendizado"),
    ("log₁₀ of the root mean square", "log₁₀ da raiz da média dos quadrados"),
    ("loss", "perda"),
    ("macro average", "média macro"),
    ("maximum error", "erro máximo"),
    ("mean", "média"),
    ("mean absolute error", "erro absoluto médio"),
    ("mean absolute percentage error", "erro percentual absoluto médio"),
    ("mean average precision", "média das precisões médias"),
    ("mean confidence", "confiança média"),
    ("mean squared error", "erro quadrático médio"),
    ("median of ‖Δw‖/‖w‖", "mediana de ‖Δw‖/‖w‖"),
    ("metric", "métrica"),
    ("model", "modelo"),
    ("output", "saída"),
    ("parameter", "parâmetro"),
    ("precision", "precisão"),
    ("predicted", "predito"),
    ("root mean squared error", "raiz do erro quadrático médio"),
    ("seconds", "segundos"),
    ("shape", "formato"),
    ("share", "proporção"),
    ("slow", "lento"),
    ("smoothed", "suavizada"),
    ("standard deviation", "desvio-padrão"),
    ("std", "desvio"),
    ("step", "passo"),
    ("suggestion", "sugestão"),
    ("support", "suporte"),
    ("target", "alvo"),
    ("train", "treino"),
    ("train loss", "perda de treino"),
    ("train, every step", "treino, cada passo"),
    ("trainable", "treináveis"),
    ("true", "verdadeiro"),
    ("true positive rate", "taxa de verdadeiros positivos"),
    ("type", "tipo"),
    ("usual", "usual"),
    ("validation", "validação"),
    ("validation loss", "perda de validação"),
    ("value", "valor"),
    ("variables", "variáveis"),
    ("verdict", "veredito"),
    ("weighted average", "média ponderada"),
    ("zeros", "zeros"),
];

/// A label in the chosen language; what has no translation stays.
pub(crate) fn label(english: &str) -> &str {
    if language() == Language::English {
        return english;
    }
    LABELS.binary_search_by_key(&english, |(key, _)| key).map_or(english, |index| LABELS[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found() {
        assert!(LABELS.is_sorted_by_key(|(english, _)| *english));
        assert_eq!(label("epoch"), "epoch");
    }
}
