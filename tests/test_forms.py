from tests.support.forms_page import PAGE, render


def test_the_page_of_forms_says_what_the_code_reads():
    """If this fails, run: make forms"""
    page = PAGE.read_text("utf-8")
    assert page == render()
    for name in ("UNet2DConditionModel", "WanTransformer3DModel", "StableAudioDiTModel"):
        assert f"| `{name}` |" in page
