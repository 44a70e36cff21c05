//! What the crate says in Portuguese. The language is one setting of the process, so one test.

use candle_course::plot::HeatMap;
use candle_course::prelude::*;
use candle_course::training::callbacks::Progress;

fn trained() -> (Trainer, History) {
    let inputs: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
    let labels: Vec<u32> = inputs.iter().map(|x| u32::from(*x > 0.0)).collect();
    let data = TensorDataset::new(
        Tensor::from_vec(inputs, (64, 1), &Device::Cpu).unwrap(),
        Tensor::new(labels, &Device::Cpu).unwrap(),
    )
    .unwrap();
    let loader = DataLoader::builder(data).batch_size(16).build().unwrap();
    let parameters = Parameters::new(1, &Device::Cpu);
    let model = Sequential::new().add(Linear::new(1, 2, &parameters.at("fc")).unwrap());
    let stopping = EarlyStopping::builder("validation_loss").patience(1).min_delta(1e9).build().unwrap();
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters).unwrap())
        .epochs(4)
        .learning_rate(0.1)
        .metric(Accuracy::default())
        .callback(Progress::default())
        .early_stopping(stopping)
        .build()
        .unwrap();
    let history = trainer.fit(&loader, Some(&loader)).unwrap();
    (trainer, history)
}

/// Everything that the crate says of one small training, a check aside.
fn said() -> Vec<String> {
    let (_, history) = trained();
    let matrix = confusion_matrix(
        &Tensor::new(&[0u32, 1, 1], &Device::Cpu).unwrap(),
        &Tensor::new(&[0u32, 0, 1], &Device::Cpu).unwrap(),
        2,
    )
    .unwrap();
    vec![
        history.to_string(),
        history.curves().unwrap().svg().to_owned(),
        matrix.report().unwrap().to_string(),
        matrix.report().unwrap().table().to_string(),
        HeatMap::confusion("", &[vec![1, 0], vec![0, 1]], &["a", "b"]).build().unwrap().svg().to_owned(),
        OneCycleLR::new(0.1, 50).unwrap().plot(50).unwrap().svg().to_owned(),
        Table::new(["a"]).row((true,)).to_string(),
    ]
}

#[test]
fn a_learner_is_answered_in_the_chosen_language() {
    let failing = || {
        Check::new("Exercício 1")
            .equal("passos", 4, 3, "arredonde para cima")
            .close("perda", 0.5, 0.7, 1e-3, "")
            .that("positiva", false, "")
    };
    assert!(format!("{:?}", failing()).contains("expected 4, got 3"));
    let english = said();
    assert!(english[0].contains("stopped: validation_loss has not improved on"), "{}", english[0]);

    set_language("pt-BR").unwrap();
    let told = format!("{:?}", failing());
    for part in ["esperado: 4, obtido: 3", "dica: arredonde para cima", "esperado: 0.5 ± 0.001", "isto não vale"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for part in ["expected", "got", "hint", "hold"] {
        assert!(!told.contains(part), "{part}: {told}");
    }
    let portuguese = said();
    for (text, parts) in portuguese.iter().zip([
        &["época", "perda de treino", "parou: validation_loss não melhora", "os pesos são os da época 1"][..],
        &["Perda", "melhor: época", "Acurácia", "Taxa de aprendizado", "passo"],
        &["precisão", "suporte", "acurácia", "média ponderada"],
        &["classe", "suporte"],
        &["predito", "verdadeiro"],
        &["taxa de aprendizado"],
        &["sim"],
    ]) {
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // The numbers are the same.
    for (english, portuguese) in english.iter().zip(&portuguese).skip(2).take(2) {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        assert_eq!(digits(english), digits(portuguese));
    }

    let error = set_language("tlh").unwrap_err().to_string();
    assert!(error.contains("`en` or `pt-BR`"), "{error}");
    assert!(said()[6].contains("sim"), "a refused language changes nothing");
}
